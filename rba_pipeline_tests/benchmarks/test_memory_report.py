"""What the memory benchmark says of what it saw."""

import pytest

from benchmarks.load_generator import LoadFigures
from benchmarks.memory_report import ALLOWED_BYTES, Figures, Sample


def figures(peak: int, query_s: list[float], refusals: int = 3) -> Figures:
    """Before the load the model took 9 s for 5 passes; under it, 2.5, 2, 2 and 0.5 s for four.

    Each query took it 0.1 s, after them.
    """
    load = LoadFigures(
        texts=8, tokens=65_536, seconds=8.0, request_s=(4.0, 8.0), compute_s=(4.0, 3.0),
        refusals=refusals,
    )  # fmt: skip
    queries = [
        LoadFigures(texts=1, tokens=16, seconds=s, request_s=(s,), compute_s=(0.1,), refusals=0)
        for s in query_s
    ]
    ended = [(0, 9.0), (1, 11.5), (2, 13.5), (3, 15.5), (4, 16.0)]
    samples = [Sample(float(i), 200 + i, 5 + passes, s) for i, (passes, s) in enumerate(ended)]
    last = Sample(9.0, 230, 5 + 4 + len(queries), 16.0 + 0.1 * len(queries))
    return Figures(
        model="tiny", precision="fp32", idle=200, peak=peak, samples=[*samples, last], load=load,
        alone_s=0.01, queries=queries,
    )  # fmt: skip


def test_a_query_may_take_the_pass_that_it_finds_and_its_own() -> None:
    found = figures(peak=300, query_s=[0.5, 1.7, 2.6])

    # Seven seconds for four passes, the longest of them 2.5.
    assert found.usual_patience_s == pytest.approx(1.76)
    assert found.patience_s == pytest.approx(2.51)
    assert [goal.met for goal in found.goals()] == [True, True, True, False]
    assert ["slower than a mean pass and its own", "1"] in found.rows()
    assert ["slower than the longest and its own", "1"] in found.rows()


def test_passes_of_the_load_are_told_from_those_of_queries_and_from_those_before_it() -> None:
    found = figures(peak=300, query_s=[0.5, 1.7])

    assert found.passes == 4
    assert found.pass_s == pytest.approx(7 / 4)
    assert ["texts of a forward pass, mean", "2.0"] in found.rows()


def test_half_of_the_queries_may_not_take_more_than_a_usual_pass() -> None:
    found = figures(peak=300, query_s=[0.5, 2.0, 2.1])

    assert [goal.met for goal in found.goals()] == [True, True, False, True]


def test_memory_beyond_the_limit_and_a_queue_that_never_refused_fall_short() -> None:
    found = figures(peak=200 + ALLOWED_BYTES + 2**20, query_s=[0.1], refusals=0)

    assert [goal.met for goal in found.goals()] == [False, False, True, True]
    assert len(next(row for row in found.rows() if row[0] == "MiB over time")[1].split()) <= 12
