"""What the scale benchmark calls flat."""

import pytest

from benchmarks.scale import Figures, goals_of


def figures(chunks: int, cpu_us: float, peak_rss: int) -> Figures:
    """Return figures with half of the processor time in the database."""
    half_s = cpu_us * chunks / 2e6
    return Figures(chunks, seconds=1.0, cpu_s=half_s, database_cpu_s=half_s, peak_rss=peak_rss)


def test_a_tenth_more_than_in_any_smaller_partition_is_flat() -> None:
    found = {
        10: [figures(10, 500, 200), figures(10, 900, 100), figures(10, 400, 300)],
        100: [figures(100, 300, 210)],
        1000: [figures(1000, 329, 219)],
    }

    goals = goals_of(found)

    assert [goal.claim for goal in goals] == [
        "CPU per chunk, 100 chunks over 10", "CPU per chunk, 1,000 chunks over 100",
        "peak RSS, 100 chunks over 10", "peak RSS, 1,000 chunks over 10",
    ]  # fmt: skip
    assert [goal.found for goal in goals] == pytest.approx([0.6, 329 / 300, 1.05, 1.095])
    assert all(goal.met for goal in goals)


def test_more_than_a_tenth_is_not() -> None:
    found = {10: [figures(10, 500, 200)], 100: [figures(100, 551, 221)]}

    assert not any(goal.met for goal in goals_of(found))
