"""A sentence-transformers model on torch, driven by ids that were tokenised once."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from embedding_service.backend import attention
from embedding_service.backend.agreement import LIKE_FP32, least_cosine, sample_ids
from embedding_service.backend.allocation import memory_is_told_apart
from embedding_service.backend.base import Precision, TokenIds, Vectors, Work
from embedding_service.backend.loading import load
from embedding_service.backend.models import ModelFolder
from embedding_service.backend.text_model import TextModel, Weights

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class SentenceTransformerBackend(TextModel):
    """Runs the modules of one SentenceTransformer."""

    runtime = "torch"

    def __init__(
        self,
        folder: ModelFolder,
        *,
        device: str,
        precision: Precision,
        threads: int,
        max_tokens: int | None,
    ) -> None:
        """Load ``folder``. ``max_tokens`` None means: what the model's folder asks for.

        Raises:
            ModelRefused: The folder holds no model that we can serve faithfully.
        """
        torch.set_num_threads(threads)
        self.device = device
        self.overlaps = device == "cuda"
        self.cores = threads
        loaded = load(folder, device)
        self._body = loaded.body
        super().__init__(
            loaded.description,
            Weights.in_fp32(folder),
            tokenizer_json=loaded.tokenizer_json,
            max_tokens=max_tokens,
        )
        if precision != "fp32":
            self._convert(precision)

    def work(self, lengths: Sequence[int]) -> Work:
        found = super().work(lengths)
        if not attention.is_flat(self._body.transformer):
            return found
        return dataclasses.replace(found, pairs=sum(length**2 for length in lengths))

    def _convert(self, precision: Precision) -> None:
        ids = sample_ids(self)
        exact = self._one_by_one(ids)
        self._body = self._body.to(_DTYPES[precision])
        self.precision = precision
        if not least_cosine(exact, self._one_by_one(ids)) >= LIKE_FP32:
            self.space = dataclasses.replace(self.space, precision=precision)

    def _one_by_one(self, texts: Sequence[TokenIds]) -> Vectors:
        return np.concatenate([self.encode([ids]) for ids in texts])

    def encode(self, batch: Sequence[TokenIds]) -> Vectors:
        return self.begin(batch)()

    def begin(self, batch: Sequence[TokenIds]) -> Callable[[], Vectors]:
        arrays = self.passed(batch)
        with memory_is_told_apart(self.device), torch.inference_mode():
            given = {name: self._sent(torch.from_numpy(a)) for name, a in arrays.items()}
            return _arrives(self._body(**given))

    def _sent(self, array: Tensor) -> Tensor:
        # From memory that can be swapped out, a copy would wait until the pass before has ended.
        pinned = array.pin_memory() if self.overlaps else array
        return pinned.to(self.device, non_blocking=self.overlaps)


def _arrives(vectors: Tensor) -> Callable[[], Vectors]:
    """Return a function that waits for ``vectors``, and for nothing that is begun after this."""
    if vectors.device.type != "cuda":
        found: Vectors = vectors.cpu().numpy()
        return lambda: found
    here = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
    here.copy_(vectors, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()

    def wait() -> Vectors:
        arrived.synchronize()
        array: Vectors = here.numpy()
        return array

    return wait
