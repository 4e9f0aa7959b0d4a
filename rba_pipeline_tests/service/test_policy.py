"""Which texts go into the next batch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedding_service.engine.policy import BatchLimits, next_batch

LIMITS = BatchLimits(max_texts=4, max_padded_tokens=1000, look_ahead=8)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        pytest.param([], [], id="nothing-waits"),
        pytest.param([7], [0], id="one-waits"),
        pytest.param([10] * 9, [0, 1, 2, 3], id="text-limit-takes-the-oldest-of-equals"),
        pytest.param([250] * 4, [0, 1, 2, 3], id="exactly-at-budget"),
        pytest.param([251] * 4, [0, 1, 2], id="one-token-over-budget"),
        pytest.param([5000, 1], [0], id="oversized-oldest-goes-alone"),
        pytest.param([300, 20, 290, 310], [0, 2, 3], id="similar-lengths-before-older-ones"),
        pytest.param([20, 900, 25], [0, 2], id="a-long-neighbour-would-be-mostly-padding"),
        pytest.param([900, 5], [0], id="a-short-neighbour-would-be-mostly-padding"),
        pytest.param([2, 60], [0, 1], id="a-little-padding-is-cheaper-than-another-pass"),
        pytest.param([500, *[100] * 7, 500], [0], id="beyond-the-look-ahead-is-not-seen"),
    ],
)
def test_next_batch(lengths: list[int], expected: list[int]) -> None:
    assert next_batch(lengths, LIMITS) == expected


@given(
    lengths=st.lists(st.integers(1, 600), min_size=1, max_size=40),
    max_texts=st.integers(1, 10),
    budget=st.integers(1, 2000),
)
def test_a_batch_holds_the_oldest_and_keeps_its_limits(
    lengths: list[int], max_texts: int, budget: int
) -> None:
    limits = BatchLimits(max_texts=max_texts, max_padded_tokens=budget, look_ahead=16)

    chosen = next_batch(lengths, limits)

    padded = len(chosen) * max(lengths[i] for i in chosen)
    assert chosen[0] == 0
    assert sorted(set(chosen)) == chosen
    assert chosen[-1] < 16
    assert len(chosen) <= max_texts
    assert len(chosen) == 1 or padded <= budget


@given(st.lists(st.integers(1, 600), max_size=60))
def test_taking_batch_after_batch_takes_every_text_once(lengths: list[int]) -> None:
    waiting = list(enumerate(lengths))
    taken: list[int] = []

    while waiting:
        chosen = next_batch([length for _, length in waiting], LIMITS)
        taken += [waiting[i][0] for i in chosen]
        waiting = [text for i, text in enumerate(waiting) if i not in chosen]

    assert sorted(taken) == list(range(len(lengths)))


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        BatchLimits(max_texts=0, max_padded_tokens=1)
