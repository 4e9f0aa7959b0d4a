"""Shorter vectors."""

import numpy as np
import pytest

from embedding_service.backend.base import Matryoshka
from embedding_service.backend.fake import FakeBackend
from embedding_service.engine.dimensions import check_dimensions, cut
from embedding_service.errors import BadRequest

VECTORS = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)


def test_layer_normalisation_comes_before_the_cut() -> None:
    deviation = VECTORS.std(axis=1, keepdims=True)
    normal = (VECTORS - VECTORS.mean(axis=1, keepdims=True)) / deviation
    expected = normal[:, :4] / np.linalg.norm(normal[:, :4], axis=1, keepdims=True)

    shorter = cut(VECTORS, 4, layer_norm_first=True)

    assert shorter.dtype == np.float32
    assert np.allclose(shorter, expected, atol=1e-6)


def test_a_plain_cut_is_of_unit_length() -> None:
    shorter = cut(VECTORS, 4, layer_norm_first=False)

    assert np.allclose(np.linalg.norm(shorter, axis=1), 1, atol=1e-6)
    assert np.allclose(shorter[:, 0] / shorter[:, 1], VECTORS[:, 0] / VECTORS[:, 1], rtol=1e-4)


def test_the_models_own_length_changes_nothing() -> None:
    assert cut(VECTORS, 16, layer_norm_first=True) is VECTORS


def test_a_model_without_shorter_vectors_gives_only_its_own() -> None:
    backend = FakeBackend(dimensions=8)

    assert check_dimensions(backend, None) == check_dimensions(backend, 8) == 8
    with pytest.raises(BadRequest, match="gives 8, got 4; its config"):
        check_dimensions(backend, 4)


def test_a_length_the_model_was_not_trained_for_is_refused() -> None:
    backend = FakeBackend(dimensions=8, matryoshka=Matryoshka((4, 8), layer_norm_first=True))

    assert check_dimensions(backend, 4) == 4
    with pytest.raises(BadRequest, match=r"gives 4, 8, got 5$"):
        check_dimensions(backend, 5)


def test_a_cut_vector_is_in_a_space_of_its_own() -> None:
    space = FakeBackend(dimensions=8).space

    assert space.cut_to(8).id == space.id
    assert space.cut_to(4).id != space.id
