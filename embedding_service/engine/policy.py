"""Pure: which of the waiting texts go into the next batch."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from embedding_service.engine.memory import Counts, Footprint


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of one model call, and what it costs."""

    max_texts: int
    max_padded_tokens: int
    """Texts x the longest of them."""
    max_attention: int = sys.maxsize
    """Texts x the square of the longest: what attention costs."""
    native_tokens: int = sys.maxsize
    """Longer texts take a path of the model of their own, and never share a batch with others."""
    look_ahead: int = 512
    """How many waiting texts, oldest first, are candidates."""
    pass_tokens: int = 40
    """What a pass costs beside its tokens, in tokens.

    On two cores 13 of a model of 137 M parameters, and of one of 23 M 40 in fp32 and 100 in int8;
    a value that is wrong by a factor of two costs about 1 %.
    """
    padding_cost: float = 1
    """What a place behind the end of a text costs, of a token: 1 where a pass is padded throughout,
    less where only attention is."""
    pass_size: Callable[[Counts], Counts] = np.asarray
    """What a pass over so many tokens is filled up to; ``Backend.pass_size``."""
    footprint: Footprint | None = None
    """Which passes fit into memory; None for all."""

    def __post_init__(self) -> None:
        least = min(
            self.max_texts, self.max_padded_tokens, self.max_attention, self.native_tokens,
            self.look_ahead, self.pass_tokens,
        )  # fmt: skip
        if least < 1 or not 0 <= self.padding_cost <= 1:
            raise ValueError(
                f"every limit must be at least 1, padding_cost from 0 to 1, got {self}"
            )


def next_batch(lengths: Sequence[int], limits: BatchLimits) -> list[int]:
    """Return the positions of the texts that go next, the oldest and those most like it in length.

    Of all batches of neighbours in length that hold the oldest, the one that is cheapest by token:
    a batch that is nearly empty pays for its pass, one of unlike texts pays for its padding, and
    one just above a size that passes have pays for what it is filled up with.

    Args:
        lengths: Token counts of the waiting texts, oldest first; ``n`` values, each ≥ 1.
        limits: Bounds of one model call.

    Returns:
        Distinct positions in ascending order, at most ``limits.max_texts``; empty only when
        nothing waits. Position 0 is always among them, even when it alone exceeds every bound:
        a text that could never fit would otherwise block everyone behind it.
    """
    if not lengths:
        return []
    waiting = np.array(lengths[: limits.look_ahead], dtype=np.int64)
    # Stable, so that of equal lengths the oldest is the first: those who wait longest go with it.
    by_length = np.argsort(waiting, kind="stable")
    oldest = int(np.flatnonzero(by_length == 0)[0])
    first, last = _cheapest(waiting[by_length], oldest, limits)
    return sorted(by_length[first : last + 1].tolist())


def _cheapest(lengths: Counts, oldest: int, limits: BatchLimits) -> tuple[int, int]:
    """Return both ends of the best batch around ``oldest``; ``lengths`` ascend."""
    # No text of the batch counts for less than the oldest: every one is at least padded to it.
    most = max(1, min(limits.max_texts, limits.max_padded_tokens // int(lengths[oldest])))
    # Every pair of ends, as a table: shortest text down, longest across.
    first = np.arange(max(0, oldest - most + 1), oldest + 1)[:, np.newaxis]
    last = np.arange(oldest, min(len(lengths), oldest + most))[np.newaxis, :]
    texts, longest = last - first + 1, lengths[last]
    padded = texts * longest
    fits = (
        (texts <= most)
        & (padded <= limits.max_padded_tokens)
        & (padded * longest <= limits.max_attention)
        & ((lengths[first] > limits.native_tokens) == (longest > limits.native_tokens))
    )
    if limits.footprint is not None:
        fits &= limits.footprint.fits(texts, longest)
    tokens_before = np.concatenate([[0], np.cumsum(lengths)])
    real = tokens_before[last + 1] - tokens_before[first]
    size = limits.pass_size(real)
    computed = limits.pass_tokens + size + limits.padding_cost * (padded - real)
    cost = np.where(fits | (texts == 1), computed / real, np.inf)
    row, column = np.unravel_index(np.argmin(cost), cost.shape)
    return int(first[row, 0]), int(last[0, column])
