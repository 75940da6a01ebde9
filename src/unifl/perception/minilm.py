"""Sentence embeddings by all-MiniLM-L6-v2: the text side of reward models (arXiv 2404.05595 §3.2) and of the scorer."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from unifl.perception.packages import digest, model_path

WIDTH = 384
MAX_TOKENS = 256  # the model's own sentence_bert_config.json


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
        self._tokenizer.enable_padding()
        self._model = BertModel(BertConfig(**config), add_pooling_layer=False)
        state = load_file(model_path("minilm-weights"))
        wanted = self._model.state_dict().keys()
        self._model.load_state_dict({key: value for key, value in state.items() if key in wanted})
        self._model.requires_grad_(False).eval().to(device)

    @property
    def sha256(self) -> str:
        """Digest of the weight file."""
        return digest("minilm-weights")

    def encode(self, sentences: Sequence[str], batch_size: int = 64) -> npt.NDArray[np.float32]:
        """float32 [N, 384], rows of length 1, in the order given. Each distinct sentence is encoded once."""
        import torch

        distinct = sorted(set(sentences), key=lambda sentence: (len(sentence), sentence))
        position = {sentence: index for index, sentence in enumerate(distinct)}
        rows = np.zeros((len(distinct), WIDTH), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(distinct), batch_size):
                encoded = self._tokenizer.encode_batch(distinct[start : start + batch_size])
                ids = torch.tensor([one.ids for one in encoded], device=self._device)
                mask = torch.tensor([one.attention_mask for one in encoded], device=self._device)
                states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
                weights = mask.unsqueeze(-1).to(states.dtype)
                mean = (states * weights).sum(1) / weights.sum(1)
                unit = torch.nn.functional.normalize(mean, dim=-1)
                rows[start : start + len(encoded)] = unit.float().cpu().numpy()
        return rows[[position[sentence] for sentence in sentences]] if sentences else rows
