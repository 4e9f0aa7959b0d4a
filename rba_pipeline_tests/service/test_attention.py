"""Texts one behind the other: attention over a table, and over bounds, sees the same."""

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest

from embedding_service.backend.packing import packed

if TYPE_CHECKING:
    from torch import Tensor

    from embedding_service.backend.attention import Layout

# torch is loaded in tests that need it: as these files are collected, every worker would do it.


def layout(*lengths: int, round_up: bool) -> "Layout":
    import torch

    from embedding_service.backend.attention import Layout

    texts = [np.arange(length, dtype=np.int32) for length in lengths]
    arrays = packed(texts, 0, round_up=round_up)
    return Layout.flat(*(torch.from_numpy(arrays[name]) for name in ("cells", "table", "mask")))


def test_bounds_are_of_each_text_and_of_the_filling() -> None:
    import torch

    found = layout(3, 70, 1, round_up=True).bounds

    assert found is not None
    assert found.dtype == torch.int32
    # 74 tokens are filled up to 76.
    assert found.tolist() == [0, 3, 73, 74, 80]


@pytest.mark.parametrize("round_up", [True, False], ids=["filled", "as-it-is"])
def test_both_ways_see_the_same(round_up: bool) -> None:
    import torch

    lengths = (5, 33, 1, 12)
    at = layout(*lengths, round_up=round_up)
    assert at.bounds is not None
    torch.manual_seed(0)
    # One pass, two heads of eight.
    query, key, value = (torch.randn(1, 2, len(at.cells), 8) for _ in range(3))

    by_table = at.attend(query, key, value, at.seen, None)[0]
    by_bounds = _segment_by_segment(query[0], key[0], value[0], at.bounds.tolist())

    tokens = sum(lengths)
    assert torch.allclose(by_table[:tokens], by_bounds[:tokens], atol=1e-6)


def _segment_by_segment(
    query: "Tensor", key: "Tensor", value: "Tensor", bounds: list[int]
) -> "Tensor":
    """Return what flash attention promises of ``bounds``, shape ``(tokens, heads, size)``."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    segments = [
        scaled_dot_product_attention(*(x[None, :, begin:end] for x in (query, key, value)))[0]
        for begin, end in pairwise(bounds)
    ]
    return torch.cat(segments, dim=1).transpose(0, 1)
