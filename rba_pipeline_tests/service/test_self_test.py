"""The check before the first request."""

from collections.abc import Sequence

import numpy as np
import pytest

from embedding_service.backend.base import TokenIds, Vectors
from embedding_service.backend.fake import FakeBackend
from embedding_service.engine.engine import Engine
from embedding_service.engine.policy import BatchLimits
from embedding_service.engine.self_test import check_invariance
from embedding_service.engine.stats import Stats
from embedding_service.errors import NotReady


class Leaky(FakeBackend):
    """Vectors depend on the longest neighbour, as after a careless change of a position table."""

    def encode(self, batch: Sequence[TokenIds]) -> Vectors:
        longest = max(len(ids) for ids in batch)
        vectors = super().encode(batch)
        vectors[:, 0] += np.float32(1e-4 * longest)
        unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


class NotUnit(FakeBackend):
    def encode(self, batch: Sequence[TokenIds]) -> Vectors:
        return super().encode(batch) * np.float32(2)


def test_a_model_that_keeps_its_promises_passes() -> None:
    backend = FakeBackend()

    tokens = check_invariance(backend)

    assert tokens == sum(sum(batch) for batch in backend.batches) > 0


@pytest.mark.parametrize(
    ("backend", "complaint"),
    [
        pytest.param(Leaky(), "differ by", id="depends-on-its-neighbours"),
        pytest.param(NotUnit(), "expected 1", id="not-of-unit-length"),
    ],
)
def test_a_model_that_breaks_one_is_never_ready(backend: FakeBackend, complaint: str) -> None:
    limits = BatchLimits(max_texts=4, max_padded_tokens=64)
    engine = Engine(backend, limits=limits, max_queue_tokens=100, stats=Stats())

    engine.start()

    with pytest.raises(NotReady) as refusal:
        engine.wait_until_tested()
    assert complaint in str(refusal.value.__cause__)
    assert not engine.alive
