"""Counts by size, in buckets that are fixed once and for all."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HistogramSnapshot:
    """What was seen so far."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    """One for each bound: values at most as large, and above the bound before. One more for the
    values above the last bound."""
    total: float
    """Sum of all values."""


class Histogram:
    """Not thread-safe: whoever holds it has a lock."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """``bounds`` ascend; at least one."""
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._total = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def snapshot(self) -> HistogramSnapshot:
        return HistogramSnapshot(self._bounds, tuple(self._counts), self._total)
