"""The frequencies of rotary positions, against numbers worked out by hand."""

import numpy as np
import pytest

from embedding_service.backend.rotary import Rotary

NOMIC = Rotary(
    base=1000, head_dimensions=64, trained_tokens=2048, longest_tokens=8192, scaling_factor=2
)


def test_ordinary_texts_have_the_powers_of_the_base() -> None:
    found = NOMIC.frequencies(long=False)

    assert found.dtype == np.float32
    assert found == pytest.approx([1000 ** (-i / 32) for i in range(32)], rel=1e-6)
    # 10 ** -1.5 in the middle.
    assert found[[0, 16, 31]] == pytest.approx([1, 0.0316227766, 0.00124093776], rel=1e-6)


def test_long_texts_have_those_of_a_base_stretched_for_the_longest() -> None:
    """2 x 8,192 / 2,048 - (2 - 1) is 7, and the lowest frequency is a seventh of what it was."""
    found = NOMIC.frequencies(long=True)

    stretched = [(1000 * 7 ** (64 / 62)) ** (-i / 32) for i in range(32)]
    assert found == pytest.approx(stretched, rel=1e-6)
    assert found[0] == 1
    assert NOMIC.frequencies(long=False)[31] / found[31] == pytest.approx(7, rel=1e-6)
