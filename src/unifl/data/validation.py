"""Data validation: Great Expectations suites, the contracts, and checks across files, as one list of checks.

Used by the `validate_data` step before any accelerator time is spent. Nothing is sent anywhere: an ephemeral context,
analytics off. Every failed check names file and row; big data stays shard by shard (only columns without pixels are
held at once).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unifl.core.errors import DataContractError, SettingsError
from unifl.data import contracts
from unifl.data.vocabulary import AXES

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES = 10
"""How many failing rows a check names: enough to see a pattern, few enough to read."""

KINDS = ("images", "prompts", "preferences")

CONTRACT = "keeps its contract"
"""Name of the check that a file can be read as every step reads it."""


@dataclass(frozen=True)
class Example:
    """One failing row: the file, the row in that file (from 0; None for the whole file) and what stands there."""

    file: str
    row: int | None
    value: str


@dataclass(frozen=True)
class Check:
    """One expectation and what came of it. `severity` is critical (blocks the run) or warning."""

    kind: str
    name: str
    why: str
    passed: bool
    severity: str = "critical"
    checked: int = 0
    failed: int = 0
    examples: Sequence[Example] = field(default_factory=list)

    @property
    def blocks(self) -> bool:
        return not self.passed and self.severity == "critical"


@dataclass(frozen=True)
class Loaded:
    """The columns of one kind of data without pixels, and for every row the file and the row in it."""

    kind: str
    path: Path
    frame: pd.DataFrame
    files: Sequence[str]
    rows: Sequence[int]

    def examples(self, positions: Sequence[int], column: str | None) -> list[Example]:
        shown = []
        for position in positions[:EXAMPLES]:
            value = "" if column is None else repr(self.frame[column].iloc[position])
            shown.append(Example(self.files[position], self.rows[position], value))
        return shown

    def check(self, name: str, why: str, wrong: pd.Series, column: str | None = None) -> Check:
        """A check of our own: `wrong` is a bool a row."""
        positions = [int(position) for position in wrong.to_numpy().nonzero()[0]]
        examples = self.examples(positions, column)
        return Check(self.kind, name, why, not positions, "critical", len(wrong), len(positions), examples)


def validate(images: Path, prompts: Path, preferences: Path, expectations: Path) -> list[Check]:
    """All checks: contracts, suites (`<kind>.json` in `expectations`) and checks across files, in this order.

    Raises SettingsError when a suite is missing or broken; bad data never raises, it fails checks.
    """
    paths = {"images": images, "prompts": prompts, "preferences": preferences}
    suites = {kind: read_suite(expectations / f"{kind}.json") for kind in KINDS}
    checks = [_contract_check(kind, path) for kind, path in paths.items()]
    loaded = {kind: frame for kind, path in paths.items() if (frame := load(kind, path)) is not None}
    for kind, data in loaded.items():
        checks += suite_checks(data, suites[kind])
    checks.append(pixel_check(images))
    if "preferences" in loaded:
        checks += preference_checks(loaded["preferences"], loaded.get("images"))
    return checks


def read_suite(file: Path) -> dict[str, Any]:
    """A suite as Great Expectations writes it to JSON. Raises SettingsError when it is missing or isn't one."""
    try:
        suite = json.loads(file.read_text(encoding="utf-8"))
        _ = [expectation["type"] for expectation in suite["expectations"]]
    except FileNotFoundError as error:
        raise SettingsError("the expectation suite does not exist", file=file) from error
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            "this is not a suite of expectations", file=file, expected="Great Expectations JSON"
        ) from error
    return dict(suite)


def _contract_check(kind: str, path: Path) -> Check:
    """What every reader of this file would say: schema, empty cells, repeated ids."""
    read = {
        "images": contracts.open_images,
        "prompts": contracts.read_prompts,
        "preferences": contracts.read_preferences,
    }[kind]
    name, why = CONTRACT, "every step reads it by this contract"
    try:
        read(path)
    except DataContractError as error:
        row = error.row if isinstance(error.row, int) else None
        value = error.message + (f"; expected {error.expected}" if error.expected else "")
        return Check(kind, name, why, False, "critical", 1, 1, [Example(str(error.file or path), row, value)])
    return Check(kind, name, why, True, "critical", 1)


def load(kind: str, path: Path) -> Loaded | None:
    """Read one kind without pixels; lists become their lengths. None when no file of it can be read (the contract check
    has said so)."""
    import pandas as pd

    frames, files, rows = [], [], []
    for file in _files(kind, path):
        frame = _columns(kind, file)
        if frame is not None:
            frames.append(frame)
            files += [str(file)] * len(frame)
            rows += list(range(len(frame)))
    if not frames:
        return None
    frame = pd.concat(frames, ignore_index=True)
    if kind == "preferences" and "preferred" in frame:
        frame["a_preferred"] = (frame["preferred"] == "a").astype("float64")
    return Loaded(kind, path, frame, files, rows)


def _files(kind: str, path: Path) -> list[Path]:
    if kind == "images":
        return sorted(path.glob("images-*.parquet")) if path.is_dir() else []
    return [path] if path.is_file() else []


def _columns(kind: str, file: Path) -> pd.DataFrame | None:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file).read()
    except (OSError, pa.ArrowException):
        return None
    columns: dict[str, Any] = {}
    for name in table.column_names:
        column = table.column(name)
        if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            columns[f"{name}_bytes"] = pc.binary_length(column).to_pandas()
        elif pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            columns[name] = pc.list_value_length(column).to_pandas()
        else:
            columns[name] = column.to_pandas()
    import pandas as pd

    return pd.DataFrame(columns)


def suite_checks(data: Loaded, suite: dict[str, Any]) -> list[Check]:
    """Run one suite with Great Expectations on the whole frame."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    try:
        expectations = gx.ExpectationSuite(name=suite["name"], expectations=suite["expectations"])
    except Exception as error:
        # Great Expectations raises whatever its own models raise (two versions of pydantic, attribute errors).
        reason = " ".join(str(error).split())
        raise SettingsError(f"the suite {data.kind} holds an expectation that can't be built: {reason}") from error
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas(data.kind).add_dataframe_asset(data.kind)
    definition = gx.ValidationDefinition(
        name=data.kind,
        data=asset.add_batch_definition_whole_dataframe(data.kind),
        suite=context.suites.add(expectations),
    )
    validation = context.validation_definitions.add(definition)
    result = validation.run(
        batch_parameters={"dataframe": data.frame}, result_format={"result_format": "COMPLETE"}
    ).to_json_dict()  # type: ignore[no-untyped-call]
    checks = [_suite_check(data, outcome) for outcome in result["results"]]
    order = [json.dumps([item["type"], item["kwargs"].get("column")]) for item in suite["expectations"]]
    names = [
        json.dumps([item["expectation_config"]["type"], item["expectation_config"]["kwargs"].get("column")])
        for item in result["results"]
    ]
    ranked = sorted(range(len(checks)), key=lambda index: (order.index(names[index]), index))
    return [checks[index] for index in ranked]


def _suite_check(data: Loaded, outcome: dict[str, Any]) -> Check:
    configuration, result = outcome["expectation_config"], outcome["result"]
    arguments = {key: value for key, value in configuration["kwargs"].items() if key != "batch_id"}
    column = arguments.get("column")
    name = configuration["type"].removeprefix("expect_").replace("_", " ")
    if column:
        name = f"{column}: {name.removeprefix('column ')}"
    limits = ", ".join(f"{key}={value}" for key, value in arguments.items() if key not in {"column", "ignore_row_if"})
    name += f" ({limits})" if limits else ""
    why = (configuration.get("meta") or {}).get("why", "")
    examples: list[Example] = []
    if not outcome["success"]:
        positions = [int(position) for position in result.get("unexpected_index_list") or []]
        known = column if column in data.frame else None
        examples = data.examples(positions, known)
        if not examples:
            missing = (
                f"there is no column {column!r}" if column and known is None else "the expectation can't be computed"
            )
            observed = f"observed {result['observed_value']}" if "observed_value" in result else missing
            examples = [Example(str(data.path), None, observed)]
    return Check(
        data.kind,
        name,
        why,
        bool(outcome["success"]),
        str(configuration.get("severity", "critical")),
        int(result.get("element_count") or len(data.frame)),
        int(result.get("unexpected_count") or (0 if outcome["success"] else 1)),
        examples,
    )


def pixel_check(images: Path) -> Check:
    """Every picture and mask decodes, masks are as large as their picture and not empty; shard by shard."""
    from unifl.core.progress import progress

    examples: list[Example] = []
    checked = failed = 0
    for shard in _files("images", images):
        for row, (picture, masks) in enumerate(progress(list(_encoded(shard)), f"decode {shard.name}", "images")):
            checked += 1
            if fault := pixel_fault(picture, masks):
                failed += 1
                if len(examples) < EXAMPLES:
                    examples.append(Example(str(shard), row, fault))
    why = "a picture that can't be decoded stops training hours later"
    return Check("images", "pictures and masks decode", why, failed == 0, "critical", checked, failed, examples)


def _encoded(shard: Path) -> Iterator[tuple[Any, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(shard) as parquet:
            for batch in parquet.iter_batches(batch_size=1024, columns=["image", "masks"]):
                columns = [batch.column(name).to_pylist() for name in ("image", "masks")]
                yield from zip(*columns, strict=True)
    except (OSError, KeyError, pa.ArrowException):
        # An unreadable shard or a missing column: the contract check names it.
        return


def pixel_fault(picture: bytes | None, masks: Sequence[bytes] | None) -> str | None:
    """What is wrong with one encoded picture and its encoded masks; None when nothing is."""
    try:
        shape = contracts.decode_image(picture or b"").shape[:2]
    except (OSError, ValueError, SyntaxError):
        return "the picture can't be decoded"
    for number, encoded in enumerate(masks or []):
        try:
            mask = contracts.decode_mask(encoded or b"")
        except (OSError, ValueError, SyntaxError):
            return f"mask {number} can't be decoded"
        if mask.shape != shape:
            return f"mask {number} is {mask.shape}, the picture {shape}"
        if not mask.any():
            return f"mask {number} is empty"
    return None


def preference_checks(votes: Loaded, images: Loaded | None) -> list[Check]:
    """What no single column can tell: two different sides, known images, no leak, votes on every axis."""
    frame = votes.frame
    needed = {"axis", "pair_id", "image_a", "image_b", "derivation_a", "derivation_b", "split"}
    if not needed <= set(frame.columns):
        return []
    same = (frame["image_a"] == frame["image_b"]) & (frame["derivation_a"] == frame["derivation_b"])
    checks = [
        votes.check("the two images of a pair differ", "a vote between one image and itself is noise", same, "pair_id")
    ]
    for side in ("a", "b"):
        wrong = ~frame[f"derivation_{side}"].map(_is_derivation)
        why = "the reward derives the side from its image again"
        checks.append(
            votes.check(f"derivation_{side} is empty or JSON of an operation", why, wrong, f"derivation_{side}")
        )
    pairs = frame.groupby(["axis", "pair_id"], observed=True)
    for column in ("image_a", "image_b", "split"):
        torn = pairs[column].transform("nunique") > 1
        checks.append(votes.check(f"all votes on a pair agree on {column}", "votes are counted by pair", torn, column))
    for axis in AXES:
        present = set(frame.loc[frame["axis"] == axis, "split"])
        missing = [split for split in ("train", "validation") if split not in present]
        examples = [Example(str(votes.path), None, f"no {split} pair of the axis {axis}") for split in missing]
        name, why = f"the axis {axis} has pairs to train and to validate on", "alpha comes from the validation pairs"
        checks.append(Check("preferences", name, why, not missing, "critical", 2, len(missing), examples))
    if images is not None and {"image_id", "split"} <= set(images.frame.columns):
        splits = dict(zip(images.frame["image_id"], images.frame["split"], strict=True))
        for side in ("image_a", "image_b"):
            split = frame[side].map(splits)
            why = "votes name images by id; their pixels come from the shards"
            checks.append(votes.check(f"{side} is in the images", why, split.isna(), side))
            why = "a test image that trains a reward makes its accuracy worthless"
            leak = split.notna() & (split != frame["split"])
            checks.append(votes.check(f"{side} is of the pair's own split", why, leak, side))
    return checks


def _is_derivation(text: Any) -> bool:
    if text == "":
        return True
    try:
        derivation = json.loads(text)
    except (TypeError, ValueError):
        return False
    return isinstance(derivation, dict) and {"family", "operation", "strength", "seed"} <= derivation.keys()
