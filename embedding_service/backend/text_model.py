"""All of a backend but the forward pass: tokens, prompts, limits and the embedding space."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from embedding_service.backend.base import (
    InputType,
    Matryoshka,
    Precision,
    Prompts,
    Space,
    TokenIds,
    Work,
)
from embedding_service.backend.description import Description
from embedding_service.backend.models import ModelFolder
from embedding_service.backend.packing import Counts, packed, pass_size, table_width
from embedding_service.errors import ModelRefused


@dataclass(frozen=True, slots=True)
class Weights:
    """Which numbers are computed with, and how exactly."""

    model: str
    revision: str
    sha256: str
    configuration_sha256: str
    precision: Precision
    like_fp32: bool
    """Whether the vectors were seen to be those of fp32; they then live in the same space."""

    @classmethod
    def in_fp32(cls, folder: ModelFolder) -> "Weights":
        """Return those of ``folder`` as they lie there."""
        return cls(
            model=folder.name,
            revision=folder.revision,
            sha256=folder.weights_sha256,
            configuration_sha256=folder.configuration_sha256,
            precision="fp32",
            like_fp32=True,
        )


class TextModel:
    """Every promise of ``Backend`` that needs no model: those of texts, and of what is served."""

    overlaps = False

    def __init__(
        self,
        description: Description,
        weights: Weights,
        *,
        tokenizer_json: bytes,
        max_tokens: int | None,
    ) -> None:
        """``max_tokens`` None means: what the model's folder asks for.

        Raises:
            ModelRefused: The model does not take texts of ``max_tokens``.
        """
        self.max_tokens = _limit(description, weights.model, max_tokens)
        self.native_tokens = min(description.native_tokens, self.max_tokens)
        self.precision: Precision = weights.precision
        self.prompts: Prompts = description.prompts
        self.matryoshka: Matryoshka | None = description.matryoshka
        self.tokenizer_json = tokenizer_json
        # Never given truncation or padding, so that any number of threads may use it.
        self._tokenizer = Tokenizer.from_str(tokenizer_json.decode())
        self._closing = _closing_tokens(self._tokenizer)
        self._description = description
        self.space = self._space(description, weights)

    def tokenise(self, texts: Sequence[str], input_type: InputType) -> list[TokenIds]:
        prompt = self.prompts.of(input_type)
        found = self._tokenizer.encode_batch_fast([prompt + text for text in texts])
        return [np.array(encoding.ids, dtype=np.int32) for encoding in found]

    def shorten(self, ids: TokenIds) -> TokenIds:
        if len(ids) <= self.max_tokens:
            return ids
        kept = self.max_tokens - self._closing
        return np.concatenate([ids[:kept], ids[len(ids) - self._closing :]])

    def work(self, lengths: Sequence[int]) -> Work:
        return Work(int(pass_size(sum(lengths))), len(lengths) * table_width(max(lengths)) ** 2)

    def pass_size(self, tokens: Counts) -> Counts:
        return pass_size(tokens)

    def passed(
        self, batch: Sequence[TokenIds], *, round_up: bool = True
    ) -> dict[str, NDArray[np.int64] | NDArray[np.float32]]:
        """Return what one pass of the model over ``batch`` is given, by name.

        As ``packing.packed``; for a model with rotary positions also ``frequencies``, float32, of
        the path that ``batch`` takes.
        """
        given: dict[str, NDArray[np.int64] | NDArray[np.float32]] = {
            **packed(batch, self._description.pad_id, round_up=round_up)
        }
        if (rotary := self._description.rotary) is not None:
            longest = max(len(ids) for ids in batch)
            given["frequencies"] = rotary.frequencies(long=longest > self.native_tokens)
        return given

    def _space(self, description: Description, weights: Weights) -> Space:
        return Space(
            model=weights.model,
            revision=weights.revision,
            weights_sha256=weights.sha256,
            configuration_sha256=weights.configuration_sha256,
            tokenizer_sha256=hashlib.sha256(self.tokenizer_json).hexdigest(),
            document_prompt=self.prompts.document,
            query_prompt=self.prompts.query,
            pooling=description.pooling,
            normalised=True,
            dimensions=description.dimensions,
            precision="fp32" if weights.like_fp32 else weights.precision,
            max_tokens=self.max_tokens,
            long_texts=self._long_texts(),
        )

    def _long_texts(self) -> str:
        rotary = self._description.rotary
        if rotary is None or self.max_tokens <= self.native_tokens:
            return ""
        return f"rotary base x{rotary.scaling_factor:g} for {rotary.longest_tokens} tokens"


def _limit(description: Description, model: str, wanted: int | None) -> int:
    if wanted is not None and wanted > description.longest_tokens:
        raise ModelRefused(
            f"EMBEDDING_MAX_SEQ_LENGTH={wanted}: {model} takes 8 to "
            f"{description.longest_tokens} tokens"
        )
    return wanted or description.usual_tokens


def _closing_tokens(tokenizer: Tokenizer) -> int:
    """Return how many special tokens stand after a text."""
    mask = tokenizer.encode("a").special_tokens_mask
    return next(i for i, special in enumerate(reversed(mask)) if not special)
