"""Pure: which of the waiting texts go into the next batch."""

from collections.abc import Sequence
from dataclasses import dataclass

# A batch may be this much padding, or this many padding tokens if that is more: below it another
# pass of the model costs more than the padding does (a pass of a small model takes about 5 ms
# however short, and some 30 tokens per ms after that).
_PADDING_SHARE = 0.2
_FREE_PADDING_TOKENS = 64


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of one model call."""

    max_texts: int
    max_padded_tokens: int
    look_ahead: int = 512
    """How many waiting texts, oldest first, are candidates."""

    def __post_init__(self) -> None:
        if min(self.max_texts, self.max_padded_tokens, self.look_ahead) < 1:
            raise ValueError(f"every limit must be at least 1, got {self}")


def next_batch(lengths: Sequence[int], limits: BatchLimits) -> list[int]:
    """Return the positions of the texts that go next, the oldest and those most like it in length.

    Args:
        lengths: Token counts of the waiting texts, oldest first; ``n`` values, each ≥ 1.
        limits: Bounds of one model call.

    Returns:
        Distinct positions in ascending order, at most ``limits.max_texts``; empty only when
        nothing waits. Position 0 is always among them, even when it alone exceeds the budget:
        a text that could never fit would otherwise block everyone behind it.
    """
    if not lengths:
        return []
    by_length = sorted(range(min(len(lengths), limits.look_ahead)), key=lengths.__getitem__)
    first = last = by_length.index(0)
    real = lengths[0]
    while True:
        grown = _grow(by_length, first, last, lengths=lengths, real=real, limits=limits)
        if grown is None:
            return sorted(by_length[first : last + 1])
        real += lengths[by_length[grown]]
        first, last = min(first, grown), max(last, grown)


def _grow(
    by_length: list[int],
    first: int,
    last: int,
    *,
    lengths: Sequence[int],
    real: int,
    limits: BatchLimits,
) -> int | None:
    """Return the neighbour of the window that adds least padding and still fits, if any."""
    size = last - first + 2
    if size > limits.max_texts:
        return None
    longest = lengths[by_length[last]]
    candidates = []
    for at in (first - 1, last + 1):
        if not 0 <= at < len(by_length):
            continue
        length = lengths[by_length[at]]
        padded = size * max(longest, length)
        padding = padded - real - length
        if padded <= limits.max_padded_tokens and padding <= _bearable(padded):
            candidates.append((padding, by_length[at], at))
    # Of equal padding the older text: its caller has waited longer.
    return min(candidates)[2] if candidates else None


def _bearable(padded: int) -> float:
    return max(_FREE_PADDING_TOKENS, _PADDING_SHARE * padded)
