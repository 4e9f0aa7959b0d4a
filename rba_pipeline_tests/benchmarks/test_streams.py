"""Which layouts of streams and threads are compared, and how."""

import pytest

from benchmarks.streams import Layout, Measured, layouts


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        pytest.param(1, [Layout(1, 1)], id="one-core-leaves-no-choice"),
        pytest.param(4, [Layout(1, 4), Layout(1, 1), Layout(4, 1)], id="what-is-served-first"),
    ],
)
def test_cores_work_on_one_pass_or_on_one_each(cores: int, expected: list[Layout]) -> None:
    assert layouts(cores) == expected


def test_a_layout_is_held_against_what_is_served_in_the_same_round() -> None:
    served = Measured(Layout(1, 2), tokens=100, bulk_s=[1.0, 2.0], query_s=[0.01, 0.02])
    found = Measured(Layout(2, 1), tokens=100, bulk_s=[0.5, 1.0], query_s=[0.02, 0.04])

    assert found.row(served) == ["2 x 1", "150 (100–200)", "2", "30 (20–40)", "2"]
