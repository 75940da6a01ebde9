"""docs/few_shot.md and its two pictures, from what benchmarks/few_shot.py has measured."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from unifl.core.files import write_text_atomic

COLORS = {"plain": "#c8553d", "learned": "#1f6f8b", "plain, own words": "#8a8a8a"}
NAMES = {"plain": "plain start", "learned": "learned start", "plain, own words": "plain start, the style's own words"}

HEAD = """# A new style from 20 images, a new axis from 200 pairs

Written by `python -m benchmarks.few_shot`; the figures behind it are in `few_shot.json`. Brackets are 95 % intervals.

`unifl few_shot_start` learns a start for LoRA over the styles of the training images (Reptile, arXiv 1803.02999):
again and again it takes a style, adapts the LoRA to a few of its images by the feedback engine, and moves the start
towards what came out. `unifl style_adaptation` learns one style from there.

```
unifl few_shot_start --base_model data/base_model --images data/images --start start \\
      --set 'styles=["engraving", "woodcut", "impasto", "crimson"]'
unifl style_adaptation --base_model data/base_model --images data/held_out_style --start start \\
      --set style=indigo --tuned_model indigo
```

In captions the words "new style" stand for the style, while the start is learned and afterwards. Paintings often change
the places of their color channels while the start is learned: a style that the base knows teaches little."""


def write_document(found: dict[str, Any], file: Path, pictures: Path, work: Path) -> None:
    """Write the page and, where styles were measured, the curve and the sample sheet."""
    parts = [HEAD]
    if "styles" in found:
        draw_curve(found["styles"], pictures / "few_shot_curve.svg")
        has_sheet = draw_sheet(found["styles"], work, pictures / "few_shot_samples.png")
        parts += styles_part(found["styles"], has_sheet)
    if "axes" in found:
        parts += axes_part(found["axes"])
    write_text_atomic(file, "\n".join(parts).rstrip() + "\n")


# ---------------------------------------------------------------- styles


def styles_part(styles: dict[str, Any], has_sheet: bool) -> list[str]:
    """The section on the held-out style."""
    judge, real, start, drawn = styles["judge"], styles["real"], styles["start"], styles["drawn"]
    wanted = styles["held_out_style"]
    taught = ", ".join(start["styles"]) if start["styles"] else "all training styles"
    rows = [
        row(look["updates"], *(share(styles["results"][kind][at]["style"]) for kind in styles["results"]))
        for at, look in enumerate(styles["results"]["plain"])
    ]
    others = [
        row(
            look["updates"],
            *(share(styles["results"][kind][at]["concept"]) for kind in ("plain", "learned")),
            *(share(styles["results"][kind][at]["both"]) for kind in ("plain", "learned")),
            *(number(styles["results"][kind][at]["gram"]) for kind in ("plain", "learned")),
            *(f"{np.mean(styles['results'][kind][at]['kid']):.0f}" for kind in ("plain", "learned")),
        )
        for at, look in enumerate(styles["results"]["plain"])
    ]
    marks = [
        row(
            one["plain_updates"],
            one["learned_updates"],
            f"{100 * one['value']:+.0f} [{100 * one['low']:+.0f}, {100 * one['high']:+.0f}]",
            "yes" if one["reached"] else "no",
        )
        for one in styles["mark"]
    ]
    tried = [
        row(NAMES[one["start"]], f"{one['rate']:g}", *(f"{100 * value:.0f}" for value in one["style"]))
        for one in styles["validation"]
    ]
    return [
        prose(
            f"""## The held-out style

            `{wanted}` is in none of the data that base, judges and start have learned from. It is learned from
            {styles["images"]} images with the diffusion loss, LoRA of rank {start["lora_rank"]}, {len(styles["seeds"])}
            seeds (other images, batches, noise and fresh weights each). After a number of updates the model draws
            {styles["prompts"]} captions of unseen compositions ({drawn["steps"]} DDIM steps, guidance
            {drawn["guidance"]:g}, the UNet in bfloat16 where that is native). **Style response** is the share of
            pictures in which a classifier finds the style. The classifier among the judges does not know `{wanted}`,
            so one of its kind was trained on the judges' trunk with three more classes (`{wanted}`, the validation
            style, and recolored paintings as "other"); its images teach no adaptation. On unseen real images it finds
            {share(judge[wanted]["recall"])} % of `{wanted}` and has {share(judge[wanted]["false_alarms"])} % false
            alarms. Of the real images with the captions that are drawn it finds {share(real["style"])} %, and the
            concept classifier {share(real["concept"])} % of what they show.

            The start was learned over {taught}, not over {", ".join(start["left_out"])}, the validation style:
            {start["rounds"]} rounds of {start["tasks_a_round"]} task, {start["updates"]} updates each with rate
            {start["learning_rate"]:g}. Both starts have the rate that did best for them on the validation style, by
            mean response: {", ".join(f"{NAMES[kind]} {rate:g}" for kind, rate in styles["rates"].items())}.

            Style response in %, by updates:
            """
        ),
        table(["Updates", *(NAMES[kind] for kind in styles["results"])], rows),
        prose(
            """
            ![Style response by updates](images/few_shot_curve.svg)

            **The mark**: the plain start's response with a quarter of the updates. Difference in points, learned minus
            plain, same seeds and prompts:
            """
        ),
        table(["Plain start's updates", "Learned start's updates", "Difference", "Reached"], marks),
        prose(
            """
            What else happens to the pictures. Concept is the share in which the concept classifier finds what was asked
            for, both the share in which style and concept are found; Gram is the distance of VGG-16's Gram matrices to
            the real image with the same caption, and KID (times 1,000) that to the real images. VGG-16 and the judges'
            trunk take no part in the adaptation.
            """
        ),
        table(
            [
                "Updates",
                "Concept, plain",
                "learned",
                "Both, plain",
                "learned",
                "Gram, plain",
                "learned",
                "KID, plain",
                "learned",
            ],
            others,
        ),
        """
![Pictures by updates](images/few_shot_samples.png)

Rows: plain start, then learned start, after each number of updates. Last row: real images with the same captions.
"""
        if has_sheet
        else "",
        "Response on the validation style in %, one seed, after "
        + ", ".join(map(str, styles["validation_looks"]))
        + " updates:\n",
        table(["Start", "Rate", *map(str, styles["validation_looks"])], tried),
        "",
    ]


def draw_curve(styles: dict[str, Any], file: Path) -> None:
    """Style response over updates with its intervals."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.hashsalt": "unifl", "axes.spines.top": False, "axes.spines.right": False})
    figure = Figure(figsize=(7.2, 4.0))
    axes = figure.add_subplot()
    for kind, looks in styles["results"].items():
        updates = [look["updates"] for look in looks]
        value, low, high = ([100 * look["style"][key] for look in looks] for key in ("value", "low", "high"))
        axes.plot(updates, value, marker="o", color=COLORS[kind], label=NAMES[kind])
        axes.fill_between(updates, low, high, color=COLORS[kind], alpha=0.15, linewidth=0)
    axes.axhline(100 * styles["real"]["style"]["value"], color="gray", linewidth=0.8, linestyle=":")
    axes.set(xlabel="updates", ylabel=f"style response to {styles['held_out_style']}, %", ylim=(-3, 103))
    axes.legend(frameon=False, loc="lower right")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None}, bbox_inches="tight")


def draw_sheet(styles: dict[str, Any], work: Path, file: Path) -> bool:
    """The first pictures of seed 0, a row a look, both starts; False when they are not kept here."""
    from PIL import Image

    from unifl.diffusion.pretraining import contact_sheet

    home, rates = work / styles["held_out_style"].replace(" ", "_"), styles["rates"]
    kept = [home / f"{kind}-{rates[kind]:g}-{styles['seeds'][0]}" / "pictures.npy" for kind in ("plain", "learned")]
    if not all(one.exists() for one in kept):
        return False
    rows = [row for one in kept for row in np.load(one)]
    real = home / "real.npy"
    rows += [np.load(real)] if real.exists() else []
    Image.fromarray(contact_sheet(rows)).save(file)
    return True


# ---------------------------------------------------------------- axes


def axes_part(axes: dict[str, Any]) -> list[str]:
    """The section on a fifth axis."""
    rows = [
        row(
            look,
            share(axes["all"]["plain"][at]),
            share(axes["all"]["learned"][at]),
            f"{100 * axes['difference'][at]['value']:+.1f} "
            f"[{100 * axes['difference'][at]['low']:+.1f}, {100 * axes['difference'][at]['high']:+.1f}]",
        )
        for at, look in enumerate(axes["looks"])
    ]
    single = [
        row(axis, kind, f"{one['rates'][kind]:g}", *(f"{100 * look['value']:.0f}" for look in one[kind]))
        for axis, one in axes["axes"].items()
        for kind in ("plain", "learned")
    ]
    return [
        prose(
            f"""## A fifth axis

            The same outer loop learns a start for reward heads. Each axis in turn is the new one: the start is learned
            over the other three ({axes["rounds"]} rounds), the axis from 200 pairs, {axes["seeds"]} times with other
            pairs. Accuracy in % on {axes["test_pairs"]} unseen pairs an axis, mean over the four axes. The rate of each
            start was chosen on another axis, with a start over the remaining two:
            """
        ),
        table(["Updates", "Plain start", "Learned start", "Difference in points"], rows),
        "\nEach axis, accuracy in % by updates:\n",
        table(["Axis", "Start", "Rate", *map(str, axes["looks"])], single),
        "",
    ]


def prose(text: str) -> str:
    """Paragraphs at the width of the pages."""
    paragraphs = [" ".join(one.split()) for one in text.split("\n\n")]
    filled = [textwrap.fill(one, 120, break_long_words=False) for one in paragraphs if one]
    return "\n" + "\n\n".join(filled) + "\n"


def row(*cells: Any) -> str:
    """One line of a table."""
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def table(headings: list[str], rows: list[str]) -> str:
    """A Markdown table."""
    return "\n".join([row(*headings), f"|{'---|' * len(headings)}", *rows])


def share(value: dict[str, float]) -> str:
    """A share with its interval, in per cent without the sign."""
    return f"{100 * value['value']:.0f} [{100 * value['low']:.0f}, {100 * value['high']:.0f}]"


def number(value: dict[str, float]) -> str:
    """A number with its interval."""
    return f"{value['value']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"
