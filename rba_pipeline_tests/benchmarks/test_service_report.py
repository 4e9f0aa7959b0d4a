"""What the table of the service benchmark says about its goals."""

import dataclasses

import pytest

from benchmarks.load_generator import LoadFigures
from benchmarks.reports import Goal
from benchmarks.service_report import Cell, Report


def cell(side: str, setting: str, texts_per_s: float, peak_mib: int = 100, number: int = 0) -> Cell:
    load = LoadFigures(
        texts=8, tokens=800, seconds=8 / texts_per_s, request_s=(1.0,), compute_s=(0.5,), refusals=0
    )
    return Cell(side, setting, number, load, peak_mib * 2**20, {})


def failed(side: str, setting: str, number: int = 0) -> Cell:
    return Cell(side, setting, number, None, 0, {}, failure="out of memory")


def report_of(kind: str, cells: list[Cell], device: str = "cpu") -> Report:
    return Report("a model", kind, device, cells)


def goals(report: Report) -> dict[str, Goal]:
    return {goal.claim: goal for goal in report.goals()}


def test_ours_is_held_against_the_reference_of_the_same_setting() -> None:
    report = report_of(
        "nomic",
        [
            cell("reference", "4x2", 0.7), cell("bf16", "4x2", 2.8),
            cell("reference", "16x4", 0.3, 900), cell("bf16", "16x4", 2.4, 290),
        ],
    )  # fmt: skip

    found = goals(report)

    assert found["bf16 at 4x2, times the reference"].found == pytest.approx(4)
    assert found["bf16 at 16x4, times the reference"].found == pytest.approx(8)
    assert found["bf16: peak RSS at 16x4, share of the reference's"].met
    assert found["bf16: worst setting against the best, tokens/s"].found is None


def test_what_the_model_did_for_a_load_is_in_the_table() -> None:
    ours = cell("bf16", "4x2", 2)
    spent = {"tokens": 800, "padded_tokens": 1000, "busy_s": 3.0}
    report = report_of("", [dataclasses.replace(ours, spent=spent), cell("reference", "4x2", 1)])

    [found] = [line.split() for line in report.text().splitlines() if line.startswith("bf16 ")]

    # Of eight texts at two a second, four seconds; the reference does not say.
    assert found[-3:] == ["20.0%", "0.75", "0"]
    assert cell("reference", "4x2", 1).busy_share is None


def test_short_texts_compare_the_best_setting_of_each_side() -> None:
    report = report_of(
        "minilm",
        [
            cell("reference", "4x2", 40), cell("reference", "16x4", 20),
            cell("bf16", "4x2", 100), cell("bf16", "16x4", 200),
        ],
    )  # fmt: skip

    claim = "bf16 at 16x4, times the reference at 4x2"
    assert goals(report)[claim].found == pytest.approx(5)


@pytest.mark.parametrize(
    ("texts_per_s", "invalid"),
    [pytest.param(0.59, True, id="crippled"), pytest.param(0.6, False, id="honest")],
)
def test_a_slow_reference_makes_the_table_call_itself_invalid(
    texts_per_s: float, invalid: bool
) -> None:
    report = report_of("nomic", [cell("reference", "4x2", texts_per_s), cell("bf16", "4x2", 3)])

    assert ("INVALID" in report.text()) == invalid


def test_a_server_that_did_not_survive_is_in_the_table_and_short_of_every_goal() -> None:
    report = report_of("nomic", [failed("reference", "16x4"), failed("bf16", "16x4")])

    assert "reference 16x4: out of memory" in report.text()
    assert "INVALID" in report.text()
    assert len(report.goals()) == 8
    assert not any(goal.met for goal in report.goals())


def test_a_round_that_failed_is_left_out_of_the_ratio_but_not_of_the_verdict() -> None:
    rounds = [
        cell("reference", "4x2", 0.7), failed("bf16", "4x2"),
        cell("reference", "4x2", 0.35, number=1), cell("bf16", "4x2", 2.8, number=1),
    ]  # fmt: skip

    report = report_of("nomic", rounds)

    goal = goals(report)["bf16 at 4x2, times the reference"]
    assert goal.found == pytest.approx(8)
    assert not goal.met
    assert "SHORT: failed in 1 of 2 rounds" in report.text()
    assert "round 1, left out: bf16 4x2: out of memory" in report.text()


@pytest.mark.parametrize("failing", ["4x2", "32x8"])
def test_flat_is_of_all_four_settings(failing: str) -> None:
    settings = ["4x2", "8x4", "16x4", "32x8"]
    whole = [cell("bf16", setting, 3) for setting in settings]
    broken = [failed("bf16", s) if s == failing else cell("bf16", s, 3) for s in settings]
    claim = "bf16: worst setting against the best, tokens/s"

    assert goals(report_of("", whole))[claim].met
    assert not goals(report_of("", broken))[claim].met
    assert not goals(report_of("", whole[:2]))[claim].met


def test_the_share_of_memory_is_of_medians() -> None:
    peaks = {"reference": (900, 900, 2000), "bf16": (290, 290, 800)}
    cells = [
        cell(side, "16x4", 1, peak, number=number)
        for side, each in peaks.items()
        for number, peak in enumerate(each)
    ]

    claim = "bf16: peak RSS at 16x4, share of the reference's"
    assert goals(report_of("nomic", cells))[claim].found == pytest.approx(290 / 900)


def test_on_cuda_the_goal_is_a_rate_of_texts_of_550_tokens() -> None:
    # A text of these has 100 tokens.
    [goal] = report_of("nomic", [cell("bf16", "64x8", 8800)], device="cuda").goals()

    assert goal.found == pytest.approx(1600)
    assert goal.met
