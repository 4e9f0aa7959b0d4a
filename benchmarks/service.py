"""Ours against the reference, over HTTP, in turns: throughput, waiting, memory, refusals.

Every figure comes from a fresh process that runs alone. What is prepared once per model (the
quantised and converted one) is prepared before the first measurement. Takes about 50 minutes on
two cores for the nomic-shaped model; running results are on stderr.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import requests

from benchmarks import command_line
from benchmarks.load_generator import LoadFailed, LoadFigures, Setting, send_all
from benchmarks.reports import exit_code, mib, progress, write_json
from benchmarks.server_processes import ServerBroken, ServerProcess
from benchmarks.service_report import Cell, Report
from benchmarks.sides import REFERENCE, SIDES, Model, command

_USUAL_SETTINGS = "4x2,8x4,16x4,32x8"
_USUAL_SIDES = f"{REFERENCE},bf16,int8"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, in which order."""

    model: Model
    texts: int
    settings: Sequence[Setting]
    sides: Sequence[str]
    rounds: int
    device: str
    cache: Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables, and return 0 if every goal is met, else 1."""
    asked = _parser().parse_args(arguments)
    reports: list[Report] = []
    for model in command_line.models(asked):
        plan = Plan(
            model=model,
            texts=asked.texts or model.usual_texts,
            settings=asked.settings,
            sides=asked.sides,
            rounds=asked.rounds,
            device=asked.device,
            cache=asked.cache,
        )
        reports.append(Report(model.name, model.kind, asked.device, []))
        for cell in measured(plan):
            reports[-1].cells.append(cell)
            _written(reports, asked.out)
        print(reports[-1].text(), flush=True)
    progress(f"figures: {asked.out}")
    return _written(reports, asked.out)


def _written(reports: Sequence[Report], out: Path) -> int:
    """Write what there is so far, so that no later failure takes it along; return its verdict."""
    goals = [goal for report in reports for goal in report.goals()]
    invalid = [f"{report.model}: {why}" for report in reports for why in report.invalid()]
    cells = {report.model: report.cells for report in reports}
    write_json(out, "service", {"cells": cells}, goals, invalid)
    return exit_code(goals, invalid)


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser("service", __doc__)
    command_line.add_rounds(parser)
    command_line.add_device(parser)
    command_line.add_models(parser)
    command_line.add_texts(parser)
    parser.add_argument(
        "--settings",
        type=command_line.settings,
        default=_USUAL_SETTINGS,
        metavar="LIST",
        help=f"texts per request x requests in flight; default {_USUAL_SETTINGS}",
    )
    parser.add_argument(
        "--sides",
        type=command_line.sides,
        default=_USUAL_SIDES,
        metavar="NAMES",
        help=f"some of {', '.join(SIDES)}; default {_USUAL_SIDES}",
    )
    return parser


def measured(plan: Plan) -> Iterator[Cell]:
    """Yield one cell after the other: all sides of a setting lie side by side in time."""
    for side in plan.sides:
        _prepare(side, plan)
    for number in range(plan.rounds):
        # Whoever comes first in one round comes last in the next, and so does each setting: what
        # the machine gains or loses with time counts for all of them.
        turn = -1 if number % 2 else 1
        for setting in plan.settings[::turn]:
            texts = plan.model.texts(_texts_at(setting, plan))
            for side in plan.sides[::turn]:
                cell = _cell(side, setting, texts, plan, number)
                progress(f"round {number + 1} of {plan.rounds}  {_said(cell)}")
                yield cell


def _texts_at(setting: Setting, plan: Plan) -> int:
    # One request of 32 chunks holds the reference up for a minute, and more of them tell nothing
    # more: half the texts are enough. Short ones are cheap.
    halved = setting.batch_size >= 32 and plan.texts == plan.model.usual_texts == 64
    return plan.texts // 2 if halved else plan.texts


def _prepare(side: str, plan: Plan) -> None:
    if side == REFERENCE:
        return
    progress(f"{plan.model.name}: preparing {side}")
    try:
        with ServerProcess(command(side, plan.model, device=plan.device, cache=plan.cache)):
            pass
    except ServerBroken as error:
        # It fails in its cells too; the other sides are measured all the same.
        progress(str(error))


def _cell(side: str, setting: Setting, texts: Sequence[str], plan: Plan, number: int) -> Cell:
    try:
        with ServerProcess(
            command(side, plan.model, device=plan.device, cache=plan.cache)
        ) as server:
            send_all(server.url, texts[: plan.model.warm_up_texts], setting)
            before = _counters(server.url, side)
            load = send_all(server.url, texts, setting)
            spent = dict(_counters(server.url, side) - before)
            return Cell(side, str(setting), number, load, server.peak_rss(), spent)
    except (LoadFailed, ServerBroken, requests.RequestException) as error:
        return Cell(side, str(setting), number, None, 0, {}, failure=str(error))


def _counters(url: str, side: str) -> Counter[str]:
    """Return what our server's model did until now; the reference does not say."""
    if side == REFERENCE:
        return Counter()
    return Counter(requests.get(f"{url}/health", timeout=60).json()["stats"])


def _said(cell: Cell) -> str:
    if cell.load is None:
        return f"{cell.side} {cell.setting}: {cell.failure}"
    return f"{cell.side} {cell.setting}: {_figures(cell.load)}, peak {mib(cell.peak_rss)} MiB"


def _figures(load: LoadFigures) -> str:
    return (
        f"{load.texts_per_s:.3g} texts/s, {load.tokens_per_s:,.0f} tokens/s, "
        f"p50 {median(load.request_s):.2f} s, {load.refusals} refusals"
    )


if __name__ == "__main__":
    sys.exit(main())
