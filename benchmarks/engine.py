"""The engine against the machine: HTTP against a bare loop, and the loop against bare matrices.

In turns, in one run: the same texts through HTTP, and through the same model in this process in
sorted batches; and multiplications of the model's own matrices (the best of torch and OpenVINO).
Says how much is padding and what share of the machine is used. About ten minutes on two cores.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from benchmarks import command_line, engine_report
from benchmarks.bare_loop import BareLoop
from benchmarks.load_generator import Setting, send_all
from benchmarks.reports import exit_code, progress, write_json
from benchmarks.roofline import Roofline, Round, Shape, best_peak
from benchmarks.server_processes import ServerProcess
from benchmarks.sides import Model, command, settings_of

_USUAL_PRECISIONS = "fp32,bf16,int8"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured."""

    model: Model
    texts: int
    setting: Setting
    rounds: int
    device: str
    cache: Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables, and return 0 if every goal is met, else 1."""
    parser = command_line.parser("engine", __doc__)
    command_line.add_rounds(parser)
    command_line.add_device(parser)
    command_line.add_models(parser)
    command_line.add_texts(parser)
    parser.add_argument(
        "--setting",
        type=command_line.setting,
        default="16x4",
        help="of the HTTP load; default 16x4",
    )
    command_line.add_precisions(parser, _USUAL_PRECISIONS)
    asked = parser.parse_args(arguments)
    found: dict[str, list[Roofline]] = {}
    code = 1
    for model in command_line.models(asked):
        found[model.name] = []
        for roofline in rooflines(model, asked):
            found[model.name].append(roofline)
            code = _written(found, asked.out)
    progress(f"figures: {asked.out}")
    return code


def _written(found: Mapping[str, Sequence[Roofline]], out: Path) -> int:
    """Write what there is so far, so that no later failure takes it along; return its verdict."""
    goals = [goal for each in found.values() for goal in engine_report.goals(each)]
    invalid = [
        f"{model}: {why}" for model, each in found.items() for why in engine_report.invalid(each)
    ]
    write_json(out, "engine", {"rooflines": found}, goals, invalid)
    return exit_code(goals, invalid)


def rooflines(model: Model, asked: argparse.Namespace) -> Iterator[Roofline]:
    """Measure one precision after the other, and print their table."""
    plan = Plan(
        model=model,
        texts=asked.texts or model.usual_texts,
        setting=asked.setting,
        rounds=asked.rounds,
        device=asked.device,
        cache=asked.cache,
    )
    found = []
    for precision in asked.precisions:
        found.append(measured(precision, plan))
        yield found[-1]
    print(f"{model.name} at {plan.setting}\n\n{engine_report.text(found)}", flush=True)


def measured(precision: str, plan: Plan) -> Roofline:
    """Return all rounds of one precision; server and loop live side by side, and take turns."""
    texts = plan.model.texts(plan.texts)
    side = command(precision, plan.model, device=plan.device, cache=plan.cache)
    with ServerProcess(side) as server:
        limits = requests.get(f"{server.url}/info", timeout=60).json()["limits"]
        loop = BareLoop(
            settings_of(precision, plan.model, plan.device, plan.cache),
            texts,
            max_texts=limits["server_batch_size"],
            max_padded_tokens=limits["max_batch_tokens"],
        )
        shape = Shape.read(plan.model.folder)
        turns = _Turns(server, loop, texts, plan, shape=shape, precision=precision)
        turns.warm_up()
        rounds = [turns.round(number) for number in range(plan.rounds)]
    return Roofline(precision, shape, loop.lengths, rounds, plan.device)


class _Turns:
    """One server and one loop, never at work at the same time."""

    def __init__(
        self,
        server: ServerProcess,
        loop: BareLoop,
        texts: Sequence[str],
        plan: Plan,
        *,
        shape: Shape,
        precision: str,
    ) -> None:
        self._server = server
        self._loop = loop
        self._texts = texts
        self._plan = plan
        self._shape = shape
        self._precision = precision

    def warm_up(self) -> None:
        """Have both compute every length once: libraries prepare for a shape when it comes up."""
        self._http()
        self._loop.seconds()

    def round(self, number: int) -> Round:
        """Measure all three once, in every other round in the opposite order."""
        figures: dict[str, Any] = {}
        turns = [self._peak, self._bare, self._http]
        for turn in turns if number % 2 == 0 else reversed(turns):
            figures |= turn()
        found = Round(**figures)
        progress(
            f"round {number + 1} of {self._plan.rounds}  {self._precision}: peak "
            f"{found.peak / 1e9:,.0f} GFLOP/s, loop {found.loop_s:.2f} s, HTTP {found.http_s:.2f} s"
        )
        return found

    def _peak(self) -> dict[str, float]:
        from benchmarks.matrix_peak import peaks

        found = peaks(self._shape, self._precision, self._plan.device)
        return {"peak": best_peak(found, self._shape)}

    def _bare(self) -> dict[str, float]:
        before = self._server.cpu_s()
        seconds = self._loop.seconds()
        return {"loop_s": seconds, "idle_cores": (self._server.cpu_s() - before) / seconds}

    def _http(self) -> dict[str, float]:
        before = self._stats()
        load = send_all(self._server.url, self._texts, self._plan.setting)
        after = self._stats()
        spent = {name: after[name] - before[name] for name in after}
        needed = self._shape.flops(int(spent["tokens"]), int(spent["pairs"]))
        done = self._shape.flops(int(spent["padded_tokens"]), int(spent["padded_pairs"]))
        return {
            "http_s": load.seconds,
            "padding_share": 1 - needed / done,
            "busy_share": spent["busy_s"] / load.seconds,
        }

    def _stats(self) -> dict[str, float]:
        answer = requests.get(f"{self._server.url}/health", timeout=60)
        stats: dict[str, float] = answer.json()["stats"]
        return stats


if __name__ == "__main__":
    sys.exit(main())
