"""What counts as quality kept."""

import dataclasses

import pytest

from benchmarks.quality_report import Comparison, Extent
from rba_pipeline.core.vectors import Quality

EXACT = Quality(queries=70, recall_at_1=0.2, recall_at_10=33 / 70, mean_reciprocal_rank=0.25)


def found(at_10: int, mrr: float) -> Quality:
    return dataclasses.replace(EXACT, recall_at_10=at_10 / 70, mean_reciprocal_rank=mrr)


@pytest.mark.parametrize(
    ("comparison", "met"),
    [
        pytest.param(
            Comparison("bf16", True, 0.9995, 0.9999, None), [True, False, False], id="no-queries"
        ),
        pytest.param(
            Comparison("bf16", False, 0.9994, 0.9999, EXACT), [False, True, True], id="bf16-strays"
        ),
        pytest.param(
            Comparison("int8", False, 0.98, 0.995, found(32, 0.24)), [True] * 3, id="one-fewer"
        ),
        pytest.param(
            Comparison("int8", False, 0.98, 0.9949, found(31, 0.22)), [False] * 3, id="all-short"
        ),
        pytest.param(
            Comparison("int8", False, 0.98, float("nan"), found(34, 0.3)),
            [False, True, True],
            id="not-a-number",
        ),
    ],
)
def test_a_precision_is_held_to_its_own_bounds(comparison: Comparison, met: list[bool]) -> None:
    assert [goal.met for goal in comparison.goals(EXACT)] == met


@pytest.mark.parametrize(
    ("extent", "met"),
    [
        pytest.param(Extent(1000, 70, EXACT), [True] * 3, id="as-promised"),
        pytest.param(Extent(999, 69, EXACT), [False, False, True], id="too-few"),
        pytest.param(Extent(1000, 70, found(0, 0.0)), [True, True, False], id="nothing-is-found"),
        pytest.param(Extent(1000, 0, None), [True, False, False], id="no-queries"),
    ],
)
def test_a_comparison_of_nothing_is_short(extent: Extent, met: list[bool]) -> None:
    assert [goal.met for goal in extent.goals()] == met
