"""A deterministic, instant stand-in for a model; keeps every promise of ``Backend``."""

import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_service.backend.base import (
    InputType,
    Matryoshka,
    Precision,
    Prompts,
    Space,
    TokenIds,
    Vectors,
    Work,
)

_OPENING, _CLOSING, _FIRST_WORD = 1, 2, 3

# Splits at white space and adds two special tokens: counts as ``FakeBackend.tokenise`` does.
_TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "WhitespaceSplit"},
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "[CLS]": {"id": "[CLS]", "ids": [_OPENING], "tokens": ["[CLS]"]},
            "[SEP]": {"id": "[SEP]", "ids": [_CLOSING], "tokens": ["[SEP]"]},
        },
    },
    "decoder": None,
    "model": {
        "type": "WordLevel",
        "vocab": {"[UNK]": 0, "[CLS]": _OPENING, "[SEP]": _CLOSING},
        "unk_token": "[UNK]",
    },
}


class FakeBackend:
    """One token per word; the vector is seeded by the ids alone."""

    device = "cpu"
    runtime = "fake"
    precision: Precision = "fp32"
    cores = 1

    def __init__(
        self,
        *,
        dimensions: int = 8,
        max_tokens: int = 64,
        native_tokens: int | None = None,
        prompts: Prompts | None = None,
        matryoshka: Matryoshka | None = None,
        overlaps: bool = False,
        before_encode: Callable[[Sequence[TokenIds]], None] | None = None,
        before_begin: Callable[[Sequence[TokenIds]], None] | None = None,
    ) -> None:
        """``before_encode`` runs inside ``encode``: it may wait, or raise in the model's place.

        ``before_begin`` is the same for ``begin``, where passes overlap.
        """
        self.overlaps = overlaps
        self.max_tokens = max_tokens
        self.native_tokens = native_tokens or max_tokens
        self.prompts = prompts or Prompts()
        self.matryoshka = matryoshka
        self.tokenizer_json = json.dumps(_TOKENIZER).encode()
        self.batches: list[list[int]] = []
        """Token counts of every batch that was computed, in order."""
        self.begun: list[list[int]] = []
        """Token counts of every batch that was begun, in order."""
        self.space = Space(
            model="fake",
            revision="0",
            weights_sha256="0" * 64,
            configuration_sha256="0" * 64,
            tokenizer_sha256=hashlib.sha256(self.tokenizer_json).hexdigest(),
            document_prompt=self.prompts.document,
            query_prompt=self.prompts.query,
            pooling="none",
            normalised=True,
            dimensions=dimensions,
            precision="fp32",
            max_tokens=max_tokens,
        )
        self._before_encode = before_encode
        self._before_begin = before_begin

    def tokenise(self, texts: Sequence[str], input_type: InputType) -> list[TokenIds]:
        prompt = self.prompts.of(input_type)
        return [self._ids(prompt + text) for text in texts]

    def _ids(self, text: str) -> TokenIds:
        words = [_FIRST_WORD + zlib.crc32(word.encode()) % 2**20 for word in text.split()]
        return np.array([_OPENING, *words, _CLOSING], dtype=np.int32)

    def shorten(self, ids: TokenIds) -> TokenIds:
        if len(ids) <= self.max_tokens:
            return ids
        return np.concatenate([ids[: self.max_tokens - 1], ids[-1:]])

    def work(self, lengths: Sequence[int]) -> Work:
        return Work(len(lengths) * max(lengths), len(lengths) * max(lengths) ** 2)

    def pass_size(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        return tokens

    def encode(self, batch: Sequence[TokenIds]) -> Vectors:
        if self._before_encode is not None:
            self._before_encode(batch)
        self.batches.append([len(ids) for ids in batch])
        return np.stack([self.vector(ids) for ids in batch])

    def begin(self, batch: Sequence[TokenIds]) -> Callable[[], Vectors]:
        if self._before_begin is not None:
            self._before_begin(batch)
        self.begun.append([len(ids) for ids in batch])
        return partial(self.encode, batch)

    def vector(self, ids: TokenIds) -> Vectors:
        """Return the only right vector for ``ids``, shape ``(dimensions,)``."""
        seed = int.from_bytes(hashlib.sha256(ids.tobytes()).digest()[:8], "big")
        vector = np.random.default_rng(seed).standard_normal(self.space.dimensions)
        return (vector / np.linalg.norm(vector)).astype(np.float32)
