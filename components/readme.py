"""Writes every component's README.md from docstring, signature and metadata.yaml: `python -m components.readme`.

With `--check` it writes nothing and names the files that are out of date; the tests hold it to that.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent


def component_names() -> list[str]:
    """The folders that hold a component, sorted."""
    return sorted(file.parent.name for file in FOLDER.glob("*/component.py"))


def readme(name: str) -> str:
    """The README of the component `name`."""
    from unifl.core.step import step_definition

    component: Any = getattr(importlib.import_module(f"components.{name}.component"), name)
    metadata = yaml.safe_load((FOLDER / name / "metadata.yaml").read_text(encoding="utf-8"))
    step = step_definition(name)
    spec = component.component_spec
    text = "\n".join(line.strip() for line in component.python_func.__doc__.strip().splitlines())
    parts = [f"# {metadata['name']}", text, _facts(metadata, spec.implementation.container.image)]
    inputs = {key: value for key, value in (spec.inputs or {}).items() if key in step.inputs}
    if inputs:
        parts.append(_table("Input", inputs, step.inputs))
    outputs = {key: value for key, value in spec.outputs.items() if key in step.outputs}
    parts.append(_table("Output", outputs, step.outputs))
    parts.append(
        "Besides, every component takes `settings` (the step's settings as one JSON string, checked before it starts)\n"
        "and `code_version` (digest of the source that the run was submitted with), and gives `metrics` and `record`\n"
        "(lineage, an in-toto statement with SLSA provenance)."
    )
    options = " ".join(f"--{key} PATH" for key in (*inputs, *outputs))
    parts.append(f"The same step from the command line; `--help` lists its settings:\n\n    unifl {name} {options}")
    return "\n\n".join(parts) + "\n"


def _facts(metadata: dict[str, Any], image: str) -> str:
    needs = [f"{entry['name']} {entry['version']}" for entry in metadata["dependencies"]["kubeflow"]]
    facts = {
        "Stability": metadata["stability"],
        "Needs": ", ".join(f"Kubeflow {need}" for need in needs),
        "Image": f"`{image}`",
        "Paper": metadata.get("paper", ""),
        "Tags": ", ".join(metadata["tags"]),
    }
    return "\n".join(f"- {name}: {value}" for name, value in facts.items() if value)


def _table(heading: str, members: dict[str, Any], described: dict[str, str]) -> str:
    rows = [f"| {heading} | Type | What |", "|---|---|---|"]
    rows += [f"| `{name}` | {member.type.split('@')[0]} | {described[name]} |" for name, member in members.items()]
    return "\n".join(rows)


def outdated() -> dict[Path, str]:
    """README files that differ from what they should hold -> what they should hold."""
    wanted = {FOLDER / name / "README.md": readme(name) for name in component_names()}
    return {
        file: text for file, text in wanted.items() if not file.exists() or file.read_text(encoding="utf-8") != text
    }


def main() -> None:
    """Write, or with --check only name, the READMEs that are out of date."""
    check = sys.argv[1:] == ["--check"]
    wrong = outdated()
    for file, text in wrong.items():
        print(f"{'out of date' if check else 'written'}: {file.relative_to(FOLDER.parent)}")
        if not check:
            file.write_text(text, encoding="utf-8")
    if check and wrong:
        sys.exit("run `python -m components.readme`")


if __name__ == "__main__":
    main()
