"""A plan as it is shown."""

import json

from rba_pipeline.core.plan_tables import as_json, as_markdown, as_text
from rba_pipeline.core.plans import PartitionPlan, Plan, Prediction, Work
from rba_pipeline.core.run_costs import RunCosts, Way
from rba_pipeline.core.side_by_side import Load, SideBySide
from rba_pipeline.core.standings import Standing

FOUR = SideBySide(4, 2, 2)
COSTS = RunCosts(Way.PROCESSES, FOUR, 11.5, 0.5, "median of 7 earlier runs", 0.001, 2500.0, "told")


def partition(
    key: str, work: Work, seconds: float | None, *, new: int = 0, again: int = 0
) -> PartitionPlan:
    standing = Standing(
        key=key,
        documents=20,
        new=new,
        changed=0,
        gone=0,
        in_other_space=0,
        cut_otherwise=0,
        is_recorded=True,
        to_send_again=again,
    )
    load = None if seconds is None else Load(seconds, 0.0)
    return PartitionPlan(standing, work, "inputs", load)


LARGE = Work(
    chunks=9_999_998, embed=4_999_999, tokens=999_999_999, reuse=4_999_999, held=9_999, add=1,
    delete=99_999,
)  # fmt: skip
PLAN = Plan(
    (
        partition("2011-01-01", LARGE, 6000.0, new=20),
        partition("2012-01-01", Work(chunks=5, reuse=5), 12.0),
        partition("2013-01-01", Work(chunks=5, embed=2, tokens=300, reuse=3), 30.0, again=2),
    ),
    parsed=0,
    costs=COSTS,
)


def test_lines_are_sorted_aligned_and_at_most_100_columns_wide() -> None:
    lines = as_text(PLAN).splitlines()

    assert [line.split()[0] for line in lines[2:6]] == ["2011-01-01", "2013-01-01", "2", "1"]
    assert {len(line) for line in lines[1:6]} == {len(lines[1])}
    assert max(map(len, lines)) <= 100
    assert [line.split()[-1] for line in lines[2:6]] == ["100", "0.50", "100", "0.20"]
    assert lines[-3:-1] == [
        "minutes  of each run by itself; together: 4 runs side by side, 2 embedding, on 2 cores",
        "run      11.5 s, every step in a process of its own (median of 7 earlier runs)",
    ]
    assert "2,500 tokens/s (told)" in lines[-1]


def test_a_partition_with_texts_to_send_again_has_a_line_of_its_own() -> None:
    assert [each.key for each in PLAN.needed] == ["2011-01-01", "2013-01-01"]
    assert "2013-01-01 stale" in as_text(PLAN)


def test_minutes_that_are_not_known_make_the_sum_unknown() -> None:
    costs = RunCosts(Way.PROCESSES, FOUR, 11.5, 0.5, "", 0.001, None, "the service is full")
    plan = Plan((*PLAN.partitions, partition("2014-01-01", LARGE, None, new=1)), 0, costs)

    lines = as_text(plan).splitlines()

    assert [line.split()[-1] for line in lines[2:7]] == [
        "100",
        "0.50",
        "unknown",
        "unknown",
        "0.20",
    ]
    assert lines[-1].endswith("unknown (the service is full)")
    assert as_json(plan)["needed"]["seconds"] is None


def test_the_sum_is_the_time_of_all_runs_together() -> None:
    many = Plan(tuple(partition(f"20{n:02}-01-01", LARGE, 60.0, new=1) for n in range(8)), 0, COSTS)

    minutes = [line.split()[-1] for line in as_text(many).splitlines()[2:11]]

    # Eight minutes of work on two cores, and half a second between two runs of a place.
    assert minutes[:8] == ["1.00"] * 8
    assert minutes[8] == "4.01"


def test_markdown_and_json_hold_the_same_figures() -> None:
    rows = as_markdown(PLAN).splitlines()
    found = json.loads(json.dumps(as_json(PLAN)))

    assert len({row.count("|") for row in rows[:6]}) == 1
    assert rows[2].startswith("| 2011-01-01 | missing | 20 | 0 | 0 | 4,999,999 |")
    assert (found["partitions"][2]["embed"], found["partitions"][2]["tokens"]) == (2, 300)
    assert (found["needed"]["partitions"], found["unneeded"]["seconds"]) == (2, 12.0)
    assert found["costs"]["way"] == "every step in a process of its own"


def test_a_prediction_is_of_the_first_run_that_begins_where_the_plan_did() -> None:
    prediction = Prediction(
        "inputs", "PROCESSES", reuse=3, add=2, seconds=30.0, seconds_beside=30.0
    )

    def is_of(inputs: str = "inputs", way: str = "PROCESSES", *, reused: int, added: int) -> bool:
        return prediction.is_of(inputs=inputs, way=way, reused=reused, added=added)

    assert is_of(reused=3, added=2)
    assert is_of(reused=2, added=1)  # one text turned out to be rejected
    assert not is_of(reused=5, added=2)  # an earlier run, which failed, embedded some
    assert not is_of(reused=3, added=0)  # it was published meanwhile
    assert not is_of("others", reused=3, added=2)
    assert not is_of(way="ONE_PROCESS", reused=3, added=2)
