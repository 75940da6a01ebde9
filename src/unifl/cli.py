"""The command line: every step by name with files as arguments, lineage of a model, and the list of presets.

A step's options come from its definition; its module is imported only when that step is called, so that `unifl --help`
answers at once. `unifl reward_model --help` shows the inputs, outputs and settings of one step.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from unifl import __version__
from unifl.core.errors import INTERRUPTED_EXIT_CODE, UniflError, is_disk_full
from unifl.steps import STEPS

if TYPE_CHECKING:
    from pydantic import BaseModel

    from unifl.core.step import StepDefinition

EXIT_CODES = """\b
Exit codes
   0  done
   1  a defect, or an error without a code of its own
   2  settings or arguments are wrong
   3  a data contract does not hold
   4  a model can't be loaded
   5  a loss or metric is not finite
   6  the quality gate says no
   7  lineage does not hold
   8  no space left, or storage refuses
 130  interrupted; the same command goes on from the last checkpoint
"""


class StepGroup(click.Group):
    """A group whose steps are imported when they are called; the help page needs only their table."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*STEPS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in STEPS:
            from unifl.core.step import step_definition

            return step_command(step_definition(cmd_name))
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Steps"):
            formatter.write_dl(list(STEPS.items()))
        others = [(name, command.get_short_help_str(90)) for name, command in self.commands.items()]
        with formatter.section("Other commands"):
            formatter.write_dl(others)


@click.group(cls=StepGroup, epilog=EXIT_CODES, context_settings={"max_content_width": 120})
@click.version_option(__version__, prog_name="unifl")
def unifl() -> None:
    """UniFL Pipelines: unified feedback learning for latent diffusion models.

    \b
    unifl STEP --help        inputs, outputs and settings of one step
    unifl lineage show M     where the model M came from
    """


def step_command(definition: StepDefinition) -> click.Command:
    """The command of one step: an option for every input and output, and the options that all steps share."""
    path = click.Path(path_type=Path)
    options: list[click.Parameter] = []
    for name, text in definition.inputs.items():
        required = name not in definition.optional_inputs
        options.append(click.Option(_spellings(name), type=path, required=required, help=f"Input: {text}"))
    for name, text in definition.outputs.items():
        options.append(click.Option(_spellings(name), type=path, required=True, help=f"Output: {text}"))
    options += [
        click.Option(["--preset"], metavar="NAME|FILE", help="Take the settings from a preset."),
        click.Option(
            ["--set", "overrides"], metavar="NAME=VALUE", multiple=True, help="Override one setting; again for more."
        ),
        click.Option(["--settings-json"], metavar="JSON", help="Settings as a JSON object, over the preset."),
        click.Option(["--metrics"], type=path, help="Write the step's metrics here (JSON)."),
        click.Option(["--record"], type=path, help="Lineage record.  [default: <first output>.record.json]"),
        click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."),
    ]

    def callback(**arguments: Any) -> None:
        run_step_command(definition, arguments)

    return click.Command(
        definition.name,
        params=options,
        callback=callback,
        help=definition.summary,
        epilog=settings_help(definition.settings),
    )


def _spellings(name: str) -> list[str]:
    spellings = [name, f"--{name}"]
    if "_" in name:
        spellings.append(f"--{name.replace('_', '-')}")
    return spellings


def settings_help(model: type[BaseModel]) -> str:
    """The settings of a step as a help page's last paragraph: name, default and description, nested ones dotted."""
    lines = ["\b", "Settings (--set NAME=VALUE)"]
    for name, default, description in _setting_rows(model, ""):
        lines.append(f"  {name} = {default}")
        if description:
            lines.append(f"      {description}")
    return "\n".join(lines)


def _setting_rows(model: type[BaseModel], prefix: str) -> list[tuple[str, str, str]]:
    from pydantic import BaseModel

    rows: list[tuple[str, str, str]] = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            rows += _setting_rows(kind, f"{prefix}{name}.")
            continue
        default = "(required)" if field.is_required() else repr(field.get_default(call_default_factory=True))
        rows.append((prefix + name, default, " ".join((field.description or "").split())))
    return rows


def run_step_command(definition: StepDefinition, arguments: dict[str, Any]) -> None:
    """Gather the settings (preset, then JSON, then overrides), run the step and print its metrics."""
    from unifl.cluster.parallel import parallel_function
    from unifl.core.settings import apply_overrides, load_preset, parsed_json
    from unifl.core.step import execute

    settings: dict[str, Any] = {}
    if arguments["preset"]:
        settings = load_preset(arguments["preset"], [definition.name])[definition.name].model_dump(mode="json")
    if arguments["settings_json"]:
        settings |= parsed_json(arguments["settings_json"], step=definition.name)
    settings = apply_overrides(settings, arguments["overrides"])
    given = {name: arguments[name] for name in (*definition.inputs, *definition.outputs) if arguments[name] is not None}
    metrics = execute(
        definition.name,
        {name: given[name] for name in definition.inputs if name in given},
        {name: given[name] for name in definition.outputs},
        settings,
        metrics=arguments["metrics"],
        record=arguments["record"],
        function=parallel_function(definition.name),
    )
    for name, value in metrics.items():
        click.echo(
            f"{definition.name}  {name} = {value:.6g}"
            if isinstance(value, float)
            else f"{definition.name}  {name} = {value}"
        )


@unifl.command("presets")
def show_presets() -> None:
    """List the presets that can be called by name."""
    from unifl.core.settings import PRESET_FOLDER, presets, read_preset

    found = presets()
    for name, file in found.items():
        click.echo(f"{name:<12} {str(read_preset(file).get('description', '')).strip()}  [{file}]")
    if not found:
        click.echo(f"No presets: no {PRESET_FOLDER} here or above.", err=True)


@unifl.group("lineage")
def lineage() -> None:
    """Trace a model back to every input, and check the digests on the way."""


_records_option = click.option(
    "--records", type=click.Path(path_type=Path, exists=True), multiple=True, help="Look for records here too."
)


@lineage.command("show")
@click.argument("model", type=click.Path(path_type=Path))
@_records_option
@click.option("--json", "as_json", is_flag=True, help="Print the records as one JSON list, nearest first.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def show(model: Path, records: tuple[Path, ...], as_json: bool, debug: bool) -> None:
    """Print the tree from MODEL to every data set.

    MODEL is a tuned model, a released folder, or a run's folder (runs/<id>).
    """
    from unifl.lineage.records import trace
    from unifl.lineage.show import print_tree

    traced = trace(model, records)
    if as_json:
        click.echo(json.dumps([record.statement for record in traced.records_nearest_first()], indent=2))
    else:
        print_tree(traced)


@lineage.command("verify")
@click.argument("model", type=click.Path(path_type=Path))
@_records_option
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def verify(model: Path, records: tuple[Path, ...], debug: bool) -> None:
    """Recompute the digest of every file that is still on disk and name the first broken link (exit code 7)."""
    from unifl.lineage.verify import print_checks, verify_model

    print_checks(verify_model(model, records))


@unifl.group("store")
def store() -> None:
    """Send, fetch and check large folders in a content-addressed store: gs://BUCKET/PATH or a local folder.

    \b
    unifl store push runs/latest/model gs://BUCKET/store            prints gs://BUCKET/store/sets/SHA256
    unifl store pull gs://BUCKET/store/names/latest model           the set published as "latest"
    """


_workers_option = click.option(
    "--workers", type=click.IntRange(1, 64), default=8, show_default=True, help="Transfers at once."
)


@store.command("push")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("root")
@click.option("--name", help="Publish it under this name, unless somebody else moves the name meanwhile.")
@_workers_option
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def push(folder: Path, root: str, name: str | None, workers: int, debug: bool) -> None:
    """Send FOLDER to the store at ROOT and print the address of its set.

    What is there already is not sent again, so the same command goes on after an interruption.
    """
    from unifl.data import store

    click.echo(store.push(folder, root, name=name, workers=workers).address)


@store.command("pull")
@click.argument("address")
@click.argument("target", type=click.Path(path_type=Path))
@_workers_option
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def pull(address: str, target: Path, workers: int, debug: bool) -> None:
    """Fetch the set at ADDRESS (ROOT/sets/SHA256 or ROOT/names/NAME) into the new folder TARGET.

    Every file is checked against its SHA-256 before TARGET appears. The same command goes on after an interruption.
    """
    from unifl.data import store

    click.echo(f"{store.pull(address, target, workers=workers).sha256}  {target}")


@store.command("verify")
@click.argument("address")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def verify_set(address: str, debug: bool) -> None:
    """Hold the objects of a set against its manifest, without fetching them (exit code 3 when one differs)."""
    from unifl.data import store

    checked = store.verify(address)
    click.echo(f"{checked.address}: {len(checked.files)} files, {checked.size} bytes, all as recorded")


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and leave the process with the documented exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    try:
        code = unifl.main(args=arguments, prog_name="unifl", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        _say("interrupted; the same command goes on from what was finished")
        sys.exit(INTERRUPTED_EXIT_CODE)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except UniflError as error:
        if debug:
            traceback.print_exc()
        _say(str(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; that is no error of ours.
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        if debug:
            traceback.print_exc()
        line = " ".join(f"{type(error).__name__}: {error}".split())
        if is_disk_full(error):
            _say(f"no space left: {line}; remedy: free some space and run the same command again")
            sys.exit(8)
        _say(f"unexpected {line}; remedy: run again with --debug for the traceback")
        sys.exit(1)


def _say(line: str) -> None:
    click.echo(f"unifl: {line}", err=True)
