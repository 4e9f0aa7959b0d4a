"""What the memory benchmark says of what it saw."""

from benchmarks.load_generator import LoadFigures
from benchmarks.memory_report import ALLOWED_BYTES, Figures


def figures(peak: int, query_s: list[float], refusals: int = 3) -> Figures:
    load = LoadFigures(
        texts=4, tokens=32_768, seconds=8.0, request_s=(4.0, 8.0), compute_s=(4.0, 3.0),
        refusals=refusals,
    )  # fmt: skip
    return Figures(
        idle=200, peak=peak, samples=[(i / 10, 200 + i) for i in range(100)], load=load,
        alone_s=0.01, query_s=query_s, longest_pass_s=2.5,
    )  # fmt: skip


def test_a_query_may_take_the_pass_that_it_finds_and_its_own() -> None:
    found = figures(peak=300, query_s=[0.5, 1.7, 2.6])

    # Seven seconds for four texts, and 2.5 for the longest pass.
    assert (found.usual_patience_s, found.patience_s) == (1.76, 2.51)
    assert [goal.met for goal in found.goals()] == [True, True, True, False]
    assert ["slower than a mean pass and its own", "1"] in found.rows()
    assert ["slower than the longest and its own", "1"] in found.rows()


def test_half_of_the_queries_may_not_take_more_than_a_usual_pass() -> None:
    found = figures(peak=300, query_s=[0.5, 2.0, 2.1])

    assert [goal.met for goal in found.goals()] == [True, True, False, True]


def test_memory_beyond_the_limit_and_a_queue_that_never_refused_fall_short() -> None:
    found = figures(peak=200 + ALLOWED_BYTES + 2**20, query_s=[0.1], refusals=0)

    assert [goal.met for goal in found.goals()] == [False, False, True, True]
    assert len(next(row for row in found.rows() if row[0] == "MiB over time")[1].split()) <= 12
