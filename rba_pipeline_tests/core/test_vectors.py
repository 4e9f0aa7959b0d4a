"""How good a ranking is."""

import pytest

from rba_pipeline.core.vectors import quality, rank_of


@pytest.mark.parametrize(
    ("ranking", "expected"),
    [
        pytest.param([], None, id="nothing-found"),
        pytest.param(["b", "c"], None, id="not-among-them"),
        pytest.param(["a"], 1, id="first"),
        pytest.param(["b", "b", "b", "a"], 2, id="several-passages-of-one-document-count-once"),
    ],
)
def test_rank_of(ranking: list[str], expected: int | None) -> None:
    assert rank_of("a", ranking) == expected


def test_quality_counts_what_was_not_found_as_zero() -> None:
    found = quality([1, 2, 10, 11, None])

    assert found.queries == 5
    assert found.recall_at_1 == pytest.approx(0.2)
    assert found.recall_at_10 == pytest.approx(0.6)
    assert found.mean_reciprocal_rank == pytest.approx((1 + 1 / 2 + 1 / 10 + 1 / 11) / 5)
