"""The schemas of the files that steps exchange, checked on every read.

A bad file is refused with one line that names the file, the row, what was expected and the remedy, before any
expensive work starts. Pictures stay encoded until somebody asks for them.
"""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from unifl.core.errors import DataContractError
from unifl.data.vocabulary import AXES

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "validation", "test")

PROMPTS = pa.schema(
    [("prompt_id", pa.string()), ("text", pa.string()), ("source", pa.string()), ("licence", pa.string())]
)

IMAGES = pa.schema(
    [
        ("image_id", pa.string()),
        ("image", pa.binary()),  # lossless WebP or PNG
        ("caption", pa.string()),
        ("style", pa.string()),
        ("concepts", pa.list_(pa.string())),
        ("attributes", pa.list_(pa.string())),
        ("relation", pa.string()),  # the only column that may be null
        ("background", pa.string()),
        ("masks", pa.list_(pa.binary())),  # 1-bit PNG, one an object, in the order of concepts
        ("split", pa.string()),
        ("source", pa.string()),
        ("licence", pa.string()),
        ("attribution", pa.string()),
    ]
)

PREFERENCES = pa.schema(
    [
        ("pair_id", pa.string()),
        ("axis", pa.string()),
        ("prompt", pa.string()),
        ("image_a", pa.string()),
        ("derivation_a", pa.string()),  # "" for the untouched image, else JSON of a degradation
        ("image_b", pa.string()),
        ("derivation_b", pa.string()),
        ("preferred", pa.string()),  # a or b
        ("annotator", pa.int32()),
        ("weight", pa.float32()),
        ("split", pa.string()),
        ("synthetic", pa.bool_()),
    ]
)

RESTORE = "restore the file with `dvc pull`, or point the step at another"


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type with dictionary encoding and large offsets taken off: both are storage, not meaning."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_large_binary(kind):
        return pa.binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_plain(kind.value_type))
    return kind


def check_schema(actual: pa.Schema, expected: pa.Schema, file: Path) -> None:
    """Refuse a file that lacks a column of ``expected`` or has it in another type; further columns are allowed."""
    for field in expected:
        position = actual.get_field_index(field.name)
        if position < 0:
            raise DataContractError(
                f"column {field.name!r} is missing", file=file, expected=f"{field.name}: {field.type}", remedy=RESTORE
            )
        if _plain(actual.field(position).type) != _plain(field.type):
            raise DataContractError(
                f"column {field.name!r} has the type {actual.field(position).type}",
                file=file,
                expected=str(field.type),
                remedy="write the column in that type",
            )


def _read(file: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    if not file.is_file():
        raise DataContractError("the file does not exist", file=file, expected="a Parquet file", remedy=RESTORE)
    try:
        with pq.ParquetFile(file) as parquet:
            check_schema(parquet.schema_arrow, schema, file)
            table = parquet.read(columns=list(columns or schema.names))
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise DataContractError(
            f"the file is not readable Parquet: {reason}", file=file, expected="a whole Parquet file", remedy=RESTORE
        ) from error
    for name in table.column_names:
        if name != "relation" and table.column(name).null_count:
            row = int(np.flatnonzero(table.column(name).is_null().to_numpy())[0])
            raise DataContractError(
                f"column {name!r} is empty",
                file=file,
                row=row,
                expected="a value",
                remedy="fill the cell or drop the row",
            )
    return table


def _first(mask: Iterable[bool]) -> int | None:
    hits = np.flatnonzero(np.asarray(list(mask), bool))
    return int(hits[0]) if hits.size else None


def _check_unique(frame: "pd.DataFrame", column: str, file: Path) -> None:
    row = _first(frame[column].duplicated())
    if row is not None:
        raise DataContractError(
            f"{column} {frame[column][row]!r} occurs twice",
            file=file,
            row=row,
            expected="unique ids",
            remedy="drop one row",
        )


def read_prompts(path: Path) -> "pd.DataFrame":
    """Read a prompts file (:data:`PROMPTS`); ids are unique and there is at least one row.

    Raises:
        DataContractError: missing, unreadable, a wrong column, an empty cell, a repeated id or no rows.
    """
    frame = _read(path, PROMPTS).to_pandas()
    if frame.empty:
        raise DataContractError("there is not one prompt", file=path, expected="at least one row", remedy=RESTORE)
    _check_unique(frame, "prompt_id", path)
    return frame


def read_preferences(path: Path, axis: str | None = None) -> "pd.DataFrame":
    """Read a preferences file (:data:`PREFERENCES`, one row a vote), optionally one axis of it.

    Raises:
        DataContractError: as :func:`read_prompts`; also an unknown axis, split or side, a weight that is not positive,
            or a pair whose two images are one.
    """
    if axis is not None and axis not in AXES:
        raise DataContractError(f"axis {axis!r} is unknown", file=path, expected=f"one of {', '.join(AXES)}")
    frame = _read(path, PREFERENCES).to_pandas()
    checks = (
        ("axis", ~frame["axis"].isin(AXES), f"one of {', '.join(AXES)}"),
        ("split", ~frame["split"].isin(SPLITS), f"one of {', '.join(SPLITS)}"),
        ("preferred", ~frame["preferred"].isin(["a", "b"]), "a or b"),
        ("weight", ~(frame["weight"] > 0), "a number above 0"),
    )
    for column, wrong, expected in checks:
        row = _first(wrong)
        if row is not None:
            raise DataContractError(
                f"{column} is {frame[column][row]!r}",
                file=path,
                row=row,
                expected=expected,
                remedy="mend or drop the row",
            )
    same = (frame["image_a"] == frame["image_b"]) & (frame["derivation_a"] == frame["derivation_b"])
    row = _first(same)
    if row is not None:
        raise DataContractError(
            f"the two images of pair {frame['pair_id'][row]!r} are one",
            file=path,
            row=row,
            expected="two different images or derivations",
            remedy="drop the pair",
        )
    if axis is not None:
        frame = frame[frame["axis"] == axis].reset_index(drop=True)
    if frame.empty:
        what = f"pair of the axis {axis}" if axis else "pair"
        raise DataContractError(f"there is not one {what}", file=path, expected="at least one row", remedy=RESTORE)
    return frame


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """Decode PNG or WebP bytes to uint8 [H, W, 3]; raises OSError (PIL's) when they are not a picture."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))


def encode_mask(mask: NDArray[np.bool_]) -> bytes:
    """Encode a bool mask [H, W] as a 1-bit PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).convert("1", dither=Image.Dither.NONE).save(
        buffer, "PNG", optimize=True
    )
    return buffer.getvalue()


def decode_mask(data: bytes) -> NDArray[np.bool_]:
    """Decode a 1-bit PNG to a bool mask [H, W]."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("L")) > 127


@dataclass(frozen=True)
class ImageTable:
    """All shards of an image folder: the columns without pixels as a frame, the pictures on demand."""

    folder: Path
    frame: "pd.DataFrame"
    _encoded: dict[str, bytes]
    _masks: dict[str, list[bytes]]

    def pixels(self, image_ids: Iterable[str]) -> NDArray[np.uint8]:
        """Return the pictures as uint8 [N, H, W, 3], in the order of ``image_ids``.

        Raises:
            DataContractError: an id is unknown, or its bytes are not a picture.
        """
        pictures = []
        for image_id in image_ids:
            try:
                pictures.append(decode_image(self._encoded[image_id]))
            except KeyError:
                raise DataContractError(f"image {image_id!r} is not in the shards", file=self.folder) from None
            except OSError as error:
                row = int(np.flatnonzero(self.frame["image_id"] == image_id)[0])
                raise DataContractError(
                    f"image {image_id!r} cannot be decoded",
                    file=self.folder,
                    row=row,
                    expected="PNG or WebP",
                    remedy=RESTORE,
                ) from error
        return np.stack(pictures) if pictures else np.zeros((0, 64, 64, 3), np.uint8)

    def encoded(self, image_id: str) -> bytes:
        """Return the stored bytes of one picture (for content-addressed caches)."""
        return self._encoded[image_id]

    def masks(self, image_id: str) -> NDArray[np.bool_]:
        """Return the instance masks of one picture as bool [K, H, W]."""
        return np.stack([decode_mask(one) for one in self._masks[image_id]])

    def split(self, name: str) -> "pd.DataFrame":
        """Return the rows of one split, with a fresh index."""
        return self.frame[self.frame["split"] == name].reset_index(drop=True)


def open_images(path: Path) -> ImageTable:
    """Open a folder of ``images-*.parquet`` shards (:data:`IMAGES`).

    Raises:
        DataContractError: no shard, an unreadable shard, a wrong column, a repeated id, an unknown split, or as many
            masks as concepts are missing.
    """
    shards = sorted(path.glob("images-*.parquet")) if path.is_dir() else []
    if not shards:
        raise DataContractError(
            "there is no images-*.parquet shard", file=path, expected="at least one", remedy=RESTORE
        )
    table = pa.concat_tables([_read(shard, IMAGES).cast(IMAGES) for shard in shards])
    frame = table.drop_columns(["image", "masks"]).to_pandas()
    if frame.empty:
        raise DataContractError("there is not one image", file=path, expected="at least one row", remedy=RESTORE)
    _check_unique(frame, "image_id", path)
    row = _first(~frame["split"].isin(SPLITS))
    if row is not None:
        raise DataContractError(
            f"split is {frame['split'][row]!r}", file=path, row=row, expected=f"one of {', '.join(SPLITS)}"
        )
    masks = table.column("masks").to_pylist()
    row = _first(len(one) != len(concepts) for one, concepts in zip(masks, frame["concepts"], strict=True))
    if row is not None:
        raise DataContractError(
            f"{len(masks[row])} masks for {len(frame['concepts'][row])} concepts",
            file=path,
            row=row,
            expected="one mask a concept",
        )
    ids = frame["image_id"].tolist()
    return ImageTable(
        path,
        frame,
        dict(zip(ids, table.column("image").to_pylist(), strict=True)),
        dict(zip(ids, masks, strict=True)),
    )
