"""Embeds prompts with MiniLM and keeps the result on disk by content: no rerun or resumed run encodes a prompt twice.

The paper names no text encoder for nearest-neighbour compression (arXiv 2404.05595 §3.2); see unifl.perception.minilm.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unifl.core.errors import DataContractError
from unifl.core.files import atomic_path
from unifl.core.progress import progress
from unifl.prompts.similarity import Embeddings

if TYPE_CHECKING:
    from unifl.perception.minilm import SentenceEncoder

CHUNK = 512
"""Sentences of one cache file. Chunks depend on the sentences alone, never on what is cached: a resumed run puts the
same sentences into the same batches and gets the same bits."""


def embed(sentences: Sequence[str], cache: Path | None = None, encoder: SentenceEncoder | None = None) -> Embeddings:
    """Return float32 [N, 384] with rows of length 1, in the order of ``sentences``.

    Args:
        sentences: any texts; each distinct one is encoded once.
        cache: a folder for finished chunks, named by the digest of encoder and sentences; None keeps nothing.
        encoder: made when None, and then only if a chunk is missing.

    Raises:
        DataContractError: a cached chunk is damaged.
        ModelLoadError: the packaged encoder is missing or altered.
        StorageError: the disk is full.
    """
    from unifl.perception.packages import digest

    model = digest("minilm-weights")
    distinct = sorted(set(sentences), key=lambda sentence: (len(sentence), sentence))
    row = {sentence: number for number, sentence in enumerate(distinct)}
    chunks = [distinct[start : start + CHUNK] for start in range(0, len(distinct), CHUNK)]
    embedded: list[Embeddings] = []
    for number in progress(len(chunks), "embedding prompts", "chunks"):
        chunk = chunks[number]
        file = None if cache is None else cache / f"{_key(model, chunk)}.npy"
        if file is not None and file.exists():
            embedded.append(_read(file, len(chunk)))
            continue
        if encoder is None:
            from unifl.perception.minilm import SentenceEncoder

            encoder = SentenceEncoder()
        embedded.append(encoder.encode(chunk))
        if file is not None:
            with atomic_path(file) as partial:
                np.save(partial, embedded[-1], allow_pickle=False)
    stacked = np.concatenate(embedded) if embedded else np.zeros((0, 0), np.float32)
    return stacked[[row[sentence] for sentence in sentences]]


def _key(model: str, sentences: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([model, *sentences]).encode()).hexdigest()


def _read(file: Path, rows: int) -> Embeddings:
    remedy = f"remove the file {file}; it is made again"
    try:
        chunk: Embeddings = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataContractError("cached embeddings are damaged", file=file, remedy=remedy) from error
    if chunk.shape[0] != rows or chunk.dtype != np.float32 or not np.isfinite(chunk).all():
        raise DataContractError(
            "cached embeddings are not those of their sentences",
            file=file,
            expected=f"{rows} float32 rows",
            remedy=remedy,
        )
    return chunk
