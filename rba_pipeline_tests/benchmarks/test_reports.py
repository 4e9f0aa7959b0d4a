"""Medians, ratios, verdicts and tables."""

import json
from pathlib import Path

import pytest

from benchmarks.reports import Goal, Spread, exit_code, goals_table, table, write_json


def test_a_ratio_compares_rounds_that_lay_side_by_side() -> None:
    # The machine was at half its speed in the second round; the ratio is the same.
    ratio = Spread.of_ratios([8, 4, 9], [2, 1, 2])

    assert ratio == Spread(middle=4, least=4, most=4.5)


def test_rounds_that_do_not_pair_up_are_refused() -> None:
    with pytest.raises(ValueError):
        Spread.of_ratios([1, 2], [1])


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        pytest.param([2.3456], "2.35", id="one-value-has-no-spread"),
        pytest.param([1, 2, 4], "2 (1–4)", id="median-least-most"),
        pytest.param([1234.5, 1234.5], "1,234", id="large-ones-are-whole"),
    ],
)
def test_a_spread_shows(values: list[float], shown: str) -> None:
    assert str(Spread.of(values)) == shown


@pytest.mark.parametrize(
    ("goal", "verdict"),
    [
        pytest.param(Goal("x", 3.5, 3.4), "pass", id="at-least"),
        pytest.param(Goal("x", 3.0, 3.4), "SHORT by 0.4", id="too-little"),
        pytest.param(Goal("x", 0.3, 0.5, at_most=True), "pass", id="at-most"),
        pytest.param(Goal("x", 0.6, 0.5, at_most=True), "SHORT by 0.1", id="too-much"),
        pytest.param(Goal("x", 3.5, 3.4, beyond=4), "pass (beyond ≥ 4: short)", id="not-beyond"),
        pytest.param(Goal("x", 4.5, 3.4, beyond=4), "pass (beyond ≥ 4: pass)", id="beyond"),
        pytest.param(Goal("x", None, 3.4), "SHORT: not measured", id="missing"),
        pytest.param(Goal("x", None, 0.5, at_most=True), "SHORT: not measured", id="missing-most"),
        pytest.param(
            Goal("x", 9, 3.4, beyond=4, lacks="1 of 3 rounds"),
            "SHORT: failed in 1 of 3 rounds (beyond ≥ 4: short)",
            id="failed-in-part",
        ),
    ],
)
def test_a_goal_says_whether_it_is_met(goal: Goal, verdict: str) -> None:
    assert goal.cells()[-1] == verdict
    assert verdict in goals_table([goal])


def test_a_table_aligns_names_left_and_figures_right() -> None:
    lines = table(["side", "rate"], [["ours", 12], ["x", 3]]).splitlines()

    assert lines == ["side  rate", "----  ----", "ours    12", "x        3"]


def test_the_file_holds_figures_goals_and_machine(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.json"

    write_json(path, "service", {"cells": [Spread(1, 1, 1)]}, [Goal("fast", 2, 1)], ["slow"])

    found = json.loads(path.read_text())
    assert found["cells"] == [{"middle": 1, "least": 1, "most": 1}]
    assert found["goals"][0]["met"] is True
    assert found["machine"]["cores"] >= 1
    assert found["invalid"] == ["slow"]
    assert {"time", "versions"} <= found.keys()


def test_only_goals_met_by_valid_figures_are_a_success() -> None:
    assert exit_code([Goal("x", 2, 1)]) == 0
    assert exit_code([Goal("x", 2, 1), Goal("y", None, 1)]) == 1
    assert exit_code([Goal("x", 2, 1)], ["the reference was slow"]) == 1
