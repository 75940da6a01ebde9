"""Does a start that was learned over known styles learn a new one in fewer updates than LoRA from nothing?

    python -m benchmarks.few_shot                    # hours on two cores; kill it and start it again as you like
    python -m benchmarks.few_shot --prompts 24 --validation_prompts 24 --looks 0 5 20    # smaller
    python -m benchmarks.few_shot --only axes        # the same question for a fifth axis of rewards; minutes

The held-out style is learned from 20 images and the diffusion loss. Both starts see the same images, batches and noise;
each has the learning rate that did best for it on a validation style (a training style that the learned start was not
learned over, in other colors, so that the base does not know it). Writes docs/few_shot.json, docs/few_shot.md and two
pictures; everything on the way lies in runs/few_shot.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

PHRASE = "new style"
STARTS = ("plain", "learned")
OWN_WORDS = "plain, own words"
IMAGES = 20
PAINTINGS = ("engraving", "woodcut", "impasto", "crimson")  # without the validation style and the held-out one


def main() -> int:
    """Measure, write; 0 when the mark is reached (a quarter of the updates), else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_model", type=Path, default=Path("data/base_model"))
    parser.add_argument("--images", type=Path, default=Path("data/images"))
    parser.add_argument(
        "--held_out", type=Path, default=Path("data/held_out_style"), help="images of the held-out style"
    )
    parser.add_argument("--preferences", type=Path, default=Path("data/preferences.parquet"))
    parser.add_argument("--judges", type=Path, default=Path("data/judges"))
    parser.add_argument("--scorer", type=Path, default=Path("data/scorer"))
    parser.add_argument("--work", type=Path, default=Path("runs/few_shot"), help="what is kept between calls")
    parser.add_argument("--only", choices=("styles", "axes"), help="one of the two questions; the other stays as it is")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="images, batches, noise, fresh LoRA")
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-3, 1e-2, 3e-2])
    parser.add_argument("--looks", type=int, nargs="+", default=[0, 2, 5, 10, 20, 40], help="numbers of updates")
    parser.add_argument("--validation_looks", type=int, nargs="+", default=[0, 5, 10, 20, 40])
    parser.add_argument("--own_words", action="store_true", help="the plain start with the style's own words too")
    parser.add_argument("--prompts", type=int, default=48, help="pictures a look on the held-out style, 100 at most")
    parser.add_argument("--validation_prompts", type=int, default=48, help="pictures a look on the validation style")
    parser.add_argument("--steps", type=int, default=10, help="DDIM steps of a picture")
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--start_styles", nargs="+", default=PAINTINGS, help="styles to learn the start over")
    parser.add_argument("--start_rounds", type=int, default=120)
    parser.add_argument("--output", type=Path, default=Path("docs/few_shot.json"))
    arguments = parser.parse_args()

    from benchmarks.few_shot_document import write_document
    from unifl.core.files import write_json_atomic

    found: dict[str, Any] = json.loads(arguments.output.read_text("utf-8")) if arguments.output.exists() else {}
    if arguments.only != "axes":
        found["styles"] = measure_styles(arguments)
        write_json_atomic(arguments.output, found)
    if arguments.only != "styles":
        from benchmarks.few_shot_axes import measure_axes

        found["axes"] = measure_axes(arguments.preferences, arguments.images, arguments.work / "axes")
        write_json_atomic(arguments.output, found)
    write_document(found, arguments.output.with_suffix(".md"), arguments.output.parent / "images", arguments.work)
    reached = all(row["reached"] for row in found.get("styles", {}).get("mark", []))
    return 0 if reached else 1


def measure_styles(arguments: argparse.Namespace) -> dict[str, Any]:
    """The start, the judge, the choice of rates on the validation style, and the held-out style."""
    from benchmarks.few_shot_measure import VALIDATION_STYLE, Examiner, adaptation, cases, style_judge
    from unifl.data.contracts import open_images
    from unifl.data.vocabulary import HELD_OUT_STYLE
    from unifl.evaluation.panel import Panel
    from unifl.feedback.few_shot_settings import StyleAdaptationSettings

    work, looks, validation_looks = arguments.work, sorted(arguments.looks), sorted(arguments.validation_looks)
    start = learned_start(arguments, VALIDATION_STYLE)
    panel = Panel(arguments.judges, arguments.scorer)
    images, held_out = open_images(arguments.images), open_images(arguments.held_out)
    judge, config = style_judge(panel, images, held_out, work / "judge")
    validation, test = cases(images, held_out, arguments.prompts, arguments.validation_prompts)
    drawn = {"steps": arguments.steps, "guidance": arguments.guidance}

    def adapted(examiner: Examiner, kind: str, rate: float, seed: int, pictures: int = 0) -> dict[str, Any]:
        chosen = looks if examiner.case is test else validation_looks
        settings = StyleAdaptationSettings(
            style=examiner.case.style,
            images=IMAGES,
            updates=chosen[-1],
            learning_rate=rate,
            phrase=None if kind == OWN_WORDS else PHRASE,
            seed=seed,
            checkpoint_every=chosen[-1],
        )
        folder = (
            work
            / examiner.case.wanted.replace(" ", "_")
            / f"{kind.replace(', ', '_').replace(' ', '_')}-{rate:g}-{seed}"
        )
        from_start = start if kind == "learned" else None
        return adaptation(arguments.base_model, from_start, examiner, settings, chosen, folder, pictures)

    examiner = Examiner(validation, panel, judge, **drawn)
    tried = [
        {
            "start": kind,
            "rate": rate,
            "style": [mean(looked, "hits") for looked in ordered(adapted(examiner, kind, rate, 0))],
        }
        for kind in STARTS
        for rate in arguments.rates
    ]
    rates = {
        kind: max((row for row in tried if row["start"] == kind), key=lambda row: np.mean(row["style"][1:]))["rate"]
        for kind in STARTS
    }
    print(f"rates chosen on the validation style: {rates}", file=sys.stderr, flush=True)

    examiner = Examiner(test, panel, judge, **drawn)
    cells = {}
    for kind in (*STARTS, *([OWN_WORDS] if arguments.own_words else [])):
        rate = rates["plain" if kind == OWN_WORDS else kind]
        seeds = arguments.seeds[:1] if kind == OWN_WORDS else arguments.seeds
        cells[kind] = [ordered(adapted(examiner, kind, rate, seed, pictures=8)) for seed in seeds]
    if test.real is not None:
        np.save(work / test.wanted / "real.npy", test.real[:8])
    made = json.loads((work / "start.record.json").read_text(encoding="utf-8"))["predicate"]
    return {
        "images": IMAGES,
        "prompts": len(test.captions),
        "seeds": arguments.seeds,
        "looks": looks,
        "drawn": drawn,
        "held_out_style": HELD_OUT_STYLE,
        "judge": config["held_out"],
        "real": examiner.real(),
        "start": made["buildDefinition"]["externalParameters"]["settings"],
        "validation_looks": validation_looks,
        "validation": tried,
        "rates": rates,
        "results": {kind: curve(rows, looks) for kind, rows in cells.items()},
        "difference": [
            {"updates": look, **both(cells["learned"], at, cells["plain"], at)} for at, look in enumerate(looks)
        ],
        "mark": mark(cells, looks),
    }


def learned_start(arguments: argparse.Namespace, left_out: str) -> Path:
    """The folder of the start, made by the step few_shot_start unless it is there with these settings."""
    from unifl.core.settings import validated
    from unifl.core.step import execute
    from unifl.feedback.few_shot_settings import FewShotStartSettings

    wanted = validated(
        FewShotStartSettings,
        {
            "images": IMAGES,
            "phrase": PHRASE,
            "left_out": (left_out,),
            "styles": arguments.start_styles,
            "rounds": arguments.start_rounds,
            "tasks_a_round": 1,
            "learning_rate": 2e-3,
        },
    )
    folder = arguments.work / "start"
    record = folder.with_name("start.record.json")
    if record.exists():
        made = json.loads(record.read_text(encoding="utf-8"))["predicate"]["buildDefinition"]["externalParameters"]
        if made["settings"] == wanted.model_dump(mode="json"):
            return Path(folder)
    execute(
        "few_shot_start", {"base_model": arguments.base_model, "images": arguments.images}, {"start": folder}, wanted
    )
    return Path(folder)


# ---------------------------------------------------------------- figures


def ordered(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The looks of one adaptation by their number of updates."""
    return [result["looks"][key] for key in sorted(result["looks"], key=int)]


def mean(look: dict[str, Any], key: str) -> float:
    """The mean over pictures."""
    return float(np.mean(look[key]))


def curve(rows: list[list[dict[str, Any]]], looks: list[int]) -> list[dict[str, Any]]:
    """Style response, concept top-1, both at once, Gram distance and KID after each number of updates."""
    return [
        {
            "updates": look,
            "style": interval(matrix(rows, at, "hits")),
            "concept": interval(matrix(rows, at, "concepts")),
            "both": interval(matrix(rows, at, "hits") * matrix(rows, at, "concepts")),
            "gram": interval(matrix(rows, at, "gram")),
            "kid": [round(row[at]["kid"], 1) for row in rows],
        }
        for at, look in enumerate(looks)
    ]


def matrix(rows: list[list[dict[str, Any]]], at: int, key: str) -> Any:
    """[seeds, prompts] of one look."""
    return np.array([row[at][key] for row in rows], float)


def interval(values: Any) -> dict[str, float]:
    """Mean of [seeds, prompts] with the 95 % interval of a bootstrap over both."""
    rng = np.random.default_rng(0)
    seeds, prompts = values.shape
    means = [
        values[rng.integers(seeds, size=seeds)][:, rng.integers(prompts, size=prompts)].mean() for _ in range(2000)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return {"value": float(values.mean()), "low": float(low), "high": float(high)}


def both(ours: list[Any], at: int, theirs: list[Any], other: int) -> dict[str, float]:
    """Paired difference of style responses, ours at one look minus theirs at another: same seeds, same prompts."""
    return interval(matrix(ours, at, "hits") - matrix(theirs, other, "hits"))


def mark(cells: dict[str, Any], looks: list[int]) -> list[dict[str, Any]]:
    """For each number of updates whose quarter was looked at too: the learned start there against the plain one."""
    rows = []
    for at, look in enumerate(looks):
        if look and look % 4 == 0 and look // 4 in looks:
            quarter = looks.index(look // 4)
            difference = both(cells["learned"], quarter, cells["plain"], at)
            rows.append(
                {"plain_updates": look, "learned_updates": look // 4, **difference, "reached": difference["value"] >= 0}
            )
    return rows


if __name__ == "__main__":
    sys.exit(main())
