"""Which texts go into the next batch."""

import itertools
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedding_service.app import batch_limits
from embedding_service.backend.fake import FakeBackend
from embedding_service.backend.packing import pass_size
from embedding_service.engine.memory import Footprint, Seen
from embedding_service.engine.policy import BatchLimits, next_batch
from embedding_service.errors import SettingRefused
from embedding_service.settings import read_settings

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
        pytest.param([400, 480], [0], id="padding-that-costs-more-than-a-pass"),
        pytest.param([400, 410], [0, 1], id="padding-that-costs-less-than-a-pass"),
        pytest.param([2, 30], [0, 1], id="a-little-padding-is-cheaper-than-another-pass"),
        pytest.param([50, 47, 50, 53, 50, 50, 50], [0, 2, 4, 5], id="full-and-without-padding"),
        pytest.param([500, *[100] * 7, 500], [0], id="beyond-the-look-ahead-is-not-seen"),
    ],
)
def test_next_batch(lengths: list[int], expected: list[int]) -> None:
    assert next_batch(lengths, LIMITS) == expected


def test_attention_bounds_a_batch_of_long_texts_only() -> None:
    limits = batch_limits(read_settings(max_batch_tokens=32_768), FakeBackend(max_tokens=8192))

    batches = [next_batch([length] * 32, limits) for length in (1024, 2048, 4096, 8192)]

    assert [len(batch) for batch in batches] == [32, 16, 4, 1]


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        pytest.param([100, 101, 100], [0, 2], id="an-ordinary-text-is-the-oldest"),
        pytest.param([101, 100, 102], [0, 2], id="a-long-text-is-the-oldest"),
    ],
)
def test_texts_of_the_long_path_go_apart(lengths: list[int], expected: list[int]) -> None:
    limits = BatchLimits(max_texts=4, max_padded_tokens=1000, native_tokens=100)

    assert next_batch(lengths, limits) == expected


def test_a_batch_takes_no_more_memory_than_there_is() -> None:
    seen = (Seen(tokens=100, pairs=100 * 100, n_bytes=1000),)
    limits = BatchLimits(max_texts=8, max_padded_tokens=4000, footprint=Footprint(3000, seen))

    assert next_batch([100] * 8, limits) == [0, 1, 2]


def test_the_oldest_goes_even_if_it_is_not_known_to_fit() -> None:
    limits = BatchLimits(max_texts=8, max_padded_tokens=4000, footprint=Footprint(3000, ()))

    assert next_batch([100] * 8, limits) == [0]


@pytest.mark.parametrize("in_flight", [8, 32, 64, 256])
def test_texts_of_the_usual_lengths_are_hardly_padded(in_flight: int) -> None:
    limits = BatchLimits(max_texts=32, max_padded_tokens=2048)
    lengths = _lognormal(median=545, sigma=0.45, longest=1700)

    batches = _closed_loop(lengths, in_flight, limits)

    assert _padding_share(batches) < 0.02


def test_short_texts_do_not_go_one_by_one() -> None:
    limits = BatchLimits(max_texts=32, max_padded_tokens=2048)
    lengths = _lognormal(median=85, sigma=0.35, longest=256)

    batches = _closed_loop(lengths, 64, limits)

    assert len(lengths) / len(batches) > 5
    assert _padding_share(batches) < 0.10


def test_where_padding_costs_little_passes_are_fuller() -> None:
    padded = BatchLimits(max_texts=32, max_padded_tokens=2048)
    packed = batch_limits(read_settings(), FakeBackend(max_tokens=2048))
    lengths = _lognormal(median=85, sigma=0.35, longest=256)

    fewer, more = (_closed_loop(lengths, 64, limits) for limits in (packed, padded))

    assert len(fewer) < 0.8 * len(more)
    # Attention grows with the square of the padding.
    assert _padding_share(fewer) < 0.2


def test_a_pass_is_filled_up_with_texts_before_it_is_with_nothing() -> None:
    by_hundreds = replace(LIMITS, max_texts=8, pass_size=lambda tokens: -(-tokens // 100) * 100)

    # All five are 505 tokens, computed as 600; four of them and no more fill a pass.
    assert next_batch([101] * 5, replace(by_hundreds, pass_tokens=1)) == [0, 1, 2, 3, 4]
    assert next_batch([100, 100, 100, 105, 100], by_hundreds) == [0, 1, 2, 4]


def test_passes_of_a_model_are_nearly_full_by_its_own_sizes() -> None:
    limits = replace(
        batch_limits(read_settings(), FakeBackend(max_tokens=2048)), pass_size=pass_size
    )
    unaware = replace(limits, pass_size=np.asarray)
    lengths = _lognormal(median=85, sigma=0.35, longest=256)

    aware, by_chance = (_filling(_closed_loop(lengths, 64, each)) for each in (limits, unaware))

    assert aware < 0.02
    assert aware < by_chance / 2


def _filling(batches: list[list[int]]) -> float:
    """Return the share of the tokens computed that are there to fill passes up."""
    tokens = np.array([sum(batch) for batch in batches])
    return float(1 - tokens.sum() / pass_size(tokens).sum())


def test_a_batch_larger_than_what_is_looked_at_for_it_is_refused() -> None:
    assert batch_limits(read_settings(server_batch_size=512), FakeBackend()).max_texts == 512

    with pytest.raises(SettingRefused, match="SERVER_BATCH_SIZE=513: expected at most 512 on cpu"):
        batch_limits(read_settings(server_batch_size=513), FakeBackend())


def _lognormal(*, median: int, sigma: float, longest: int) -> list[int]:
    plan = random.Random(0)
    drawn = (plan.lognormvariate(math.log(median), sigma) for _ in range(600))
    return [max(1, min(longest, round(length))) for length in drawn]


def _closed_loop(lengths: list[int], in_flight: int, limits: BatchLimits) -> list[list[int]]:
    """Return the batches when a new text comes for each that was computed."""
    coming = iter(lengths)
    waiting = list(itertools.islice(coming, in_flight))
    batches = []
    while waiting:
        chosen = next_batch(waiting, limits)
        batches.append([waiting[i] for i in chosen])
        staying = [length for i, length in enumerate(waiting) if i not in chosen]
        waiting = staying + list(itertools.islice(coming, len(chosen)))
    return batches


def _padding_share(batches: list[list[int]]) -> float:
    padded = sum(len(batch) * max(batch) for batch in batches)
    return 1 - sum(map(sum, batches)) / padded


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
    with pytest.raises(ValueError, match="padding_cost from 0 to 1"):
        replace(LIMITS, padding_cost=1.5)
