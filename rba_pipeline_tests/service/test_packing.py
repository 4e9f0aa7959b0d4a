"""Where the tokens of a batch are while it is computed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedding_service.backend.packing import packed, pass_size, table_width

PAD = 7
BATCHES = st.lists(st.integers(1, 300), min_size=1, max_size=12).map(
    lambda lengths: [
        np.arange(100 * at, 100 * at + length, dtype=np.int32) for at, length in enumerate(lengths)
    ]
)


@given(batch=BATCHES, round_up=st.booleans())
def test_every_token_is_where_its_row_and_its_cell_say(
    batch: list[np.ndarray], round_up: bool
) -> None:
    found = packed(batch, PAD, round_up=round_up)

    tokens = sum(map(len, batch))
    assert (found["input_ids"][tokens:] == PAD).all()
    for row, ids in enumerate(batch):
        of_text = found["table"][row, : len(ids)]
        assert (found["input_ids"][of_text] == ids).all()
        assert (found["positions"][of_text] == np.arange(len(ids))).all()
        width = found["table"].shape[1]
        assert (found["cells"][of_text] == row * width + np.arange(len(ids))).all()
        assert found["mask"][row].tolist() == [1] * len(ids) + [0] * (width - len(ids))
    # Whatever is no text points at something that exists.
    assert found["table"].max() < tokens
    assert found["cells"].max() < found["table"].size


@given(batch=BATCHES)
def test_without_rounding_nothing_is_filled_up(batch: list[np.ndarray]) -> None:
    found = packed(batch, PAD, round_up=False)

    assert len(found["input_ids"]) == len(found["cells"]) == sum(map(len, batch))
    assert found["table"].shape == found["mask"].shape == (len(batch), max(map(len, batch)))


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(1, 1), (15, 15), (17, 18), (33, 36), (545, 576), (1025, 1088), (2047, 2048), (8161, 8192)],
)
def test_sizes_of_passes(tokens: int, expected: int) -> None:
    assert pass_size(tokens) == expected


@pytest.mark.parametrize(
    ("longest", "expected"),
    [(1, 16), (16, 16), (17, 32), (92, 96), (545, 576), (1025, 1056), (2047, 2048), (8161, 8192)],
)
def test_widths_of_tables(longest: int, expected: int) -> None:
    assert table_width(longest) == expected


@given(st.lists(st.integers(1, 2**40), min_size=1))
def test_a_size_holds_the_tokens_and_is_little_larger(counts: list[int]) -> None:
    tokens = np.array(counts)

    sizes = pass_size(tokens)

    assert (tokens <= sizes).all()
    assert (sizes <= np.minimum(tokens * 9 // 8, tokens + 63)).all()
    assert (pass_size(sizes) == sizes).all()
    assert (np.diff(pass_size(np.sort(tokens))) >= 0).all()


@given(st.integers(1, 2**40))
def test_a_table_is_hardly_wider_than_its_longest_text(longest: int) -> None:
    width = table_width(longest)

    assert longest <= width <= max(longest + 15, min(longest * 17 // 16, longest + 31))
    assert width % 16 == 0


def test_few_sizes_serve_all_passes() -> None:
    """A pass whose size is new costs the making of its code."""
    assert len(np.unique(pass_size(np.arange(1, 2049)))) == 80
