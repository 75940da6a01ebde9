"""Sentence embeddings by all-MiniLM-L6-v2: the text side of reward models (arXiv 2404.05595 §3.2) and of the scorer."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from unifl.perception.packages import digest, model_path

WIDTH = 384
MAX_TOKENS = 256  # the model's own sentence_bert_config.json
_BLOCK = 8  # sentences that are encoded together: enough to keep the processor busy
_WIDTH_STEP = 16  # tokens; a sentence is padded to the next multiple


class SentenceEncoder:
    """Frozen MiniLM with mean pooling, as its model card uses it. Raises ModelLoadError on missing or altered files."""

    def __init__(self, device: str = "cpu") -> None:
        from safetensors.torch import load_file
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel

        config = json.loads(model_path("minilm-config").read_text())
        self._device = device
        self._tokenizer = Tokenizer.from_file(str(model_path("minilm-tokenizer")))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.no_padding()
        self._model = BertModel(BertConfig(**config), add_pooling_layer=False)
        state = load_file(model_path("minilm-weights"))
        wanted = self._model.state_dict().keys()
        self._model.load_state_dict({key: value for key, value in state.items() if key in wanted})
        self._model.requires_grad_(False).eval().to(device)

    @property
    def sha256(self) -> str:
        """Digest of the weight file."""
        return digest("minilm-weights")

    def encode(self, sentences: Sequence[str]) -> npt.NDArray[np.float32]:
        """float32 [N, 384], rows of length 1, in the order given.

        A sentence's row is the same to the bit whatever it is encoded together with: the network always sees blocks of
        one size, so that features from a cache and features made anew agree.
        """
        distinct = sorted(set(sentences))
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(distinct)]
        rows: dict[str, npt.NDArray[np.float32]] = {}
        by_width: dict[int, list[int]] = {}
        for index, ids in enumerate(tokens):
            by_width.setdefault(-(-len(ids) // _WIDTH_STEP) * _WIDTH_STEP, []).append(index)
        for width, indices in by_width.items():
            for start in range(0, len(indices), _BLOCK):
                chosen = indices[start : start + _BLOCK]
                block = self._encode_block([tokens[index] for index in chosen], width)
                rows.update({distinct[index]: row for index, row in zip(chosen, block, strict=False)})
        if not sentences:
            return np.zeros((0, WIDTH), dtype=np.float32)
        return np.stack([rows[sentence] for sentence in sentences])

    def _encode_block(self, tokens: list[list[int]], width: int) -> npt.NDArray[np.float32]:
        """Exactly `_BLOCK` rows of `width` tokens; rows beyond `tokens` repeat its first."""
        import torch

        padded = torch.zeros((_BLOCK, width), dtype=torch.long)
        mask = torch.zeros((_BLOCK, width), dtype=torch.long)
        for row in range(_BLOCK):
            ids = tokens[row] if row < len(tokens) else tokens[0]
            padded[row, : len(ids)] = torch.tensor(ids)
            mask[row, : len(ids)] = 1
        padded, mask = padded.to(self._device), mask.to(self._device)
        with torch.inference_mode():
            states = self._model(input_ids=padded, attention_mask=mask).last_hidden_state
            weights = mask.unsqueeze(-1).to(states.dtype)
            unit = torch.nn.functional.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)
        result: npt.NDArray[np.float32] = unit.float().cpu().numpy()
        return result
