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
        alone_s=0.01, query_s=query_s, pass_s=2.0,
    )  # fmt: skip


def test_a_query_may_take_the_pass_that_it_finds_and_its_own() -> None:
    found = figures(peak=300, query_s=[0.5, 2.0, 2.1])

    assert found.patience_s == 2.01
    assert [goal.met for goal in found.goals()] == [True, True, True, False]
    assert ["slower than a pass and its own", "1"] in found.rows()


def test_memory_beyond_the_limit_and_a_queue_that_never_refused_fall_short() -> None:
    found = figures(peak=200 + ALLOWED_BYTES + 2**20, query_s=[0.1], refusals=0)

    assert [goal.met for goal in found.goals()] == [False, False, True, True]
    assert len(next(row for row in found.rows() if row[0] == "MiB over time")[1].split()) <= 12
