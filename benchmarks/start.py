"""Seconds from the start of the process until it is ready, with a warm cache; and where they go.

The first start prepares the model and is not counted. Two processes take turns: one as it is, one
that also times its imports (``python -X importtime``, a little slower for it); the rest is what
the second one spent on everything else.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks import command_line
from benchmarks.reports import Goal, Spread, exit_code, goals_table, progress, table, write_json
from benchmarks.server_processes import Command, ServerProcess
from benchmarks.sides import Model, command

_SELF_US = re.compile(r"^import time:\s+(\d+) \|", re.MULTILINE)
_BEYOND_IMPORTS_S = {"minilm": 3.0, "nomic": 6.0}
_USUAL_PRECISIONS = "bf16,int8"


@dataclass(frozen=True, slots=True)
class Start:
    """One start as it is, and one whose imports were timed."""

    ready_s: float
    timed_ready_s: float
    imports_s: float

    @property
    def rest_s(self) -> float:
        return self.timed_ready_s - self.imports_s


@dataclass(frozen=True, slots=True)
class Starts:
    """All starts of one model in one precision."""

    model: str
    kind: str
    """Of the model: whose goals it is held to."""
    precision: str
    starts: Sequence[Start]

    def row(self) -> list[str]:
        """Return the line of the table."""
        return [
            f"{self.model} {self.precision}",
            str(Spread.of([start.ready_s for start in self.starts])),
            str(Spread.of([start.imports_s for start in self.starts])),
            str(self.rest()),
        ]

    def rest(self) -> Spread:
        return Spread.of([start.rest_s for start in self.starts])

    def goals(self) -> list[Goal]:
        """Return what was promised of this model, if anything."""
        bound = _BEYOND_IMPORTS_S.get(self.kind)
        if bound is None:
            return []
        claim = f"{self.model} {self.precision}: start to ready beyond the imports, s"
        return [Goal(claim, self.rest().middle, bound, at_most=True)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and return 0 if every goal is met, else 1."""
    parser = command_line.parser("start", __doc__)
    command_line.add_rounds(parser, 5)
    command_line.add_device(parser)
    command_line.add_models(parser)
    command_line.add_precisions(parser, _USUAL_PRECISIONS)
    asked = parser.parse_args(arguments)
    found: list[Starts] = []
    goals: list[Goal] = []
    for model in command_line.models(asked):
        for precision in asked.precisions:
            served = command(precision, model, device=asked.device, cache=asked.cache)
            starts = measured(model, served, asked.rounds)
            found.append(Starts(model.name, model.kind, precision, starts))
            goals += found[-1].goals()
            write_json(asked.out, "start", {"starts": found}, goals)
    print(table(["", "ready after s", "imports s", "rest s"], [starts.row() for starts in found]))
    if goals:
        print(f"\n{goals_table(goals)}")
    progress(f"figures: {asked.out}")
    return exit_code(goals)


def measured(model: Model, served: Command, rounds: int) -> list[Start]:
    """Return the figures of each round."""
    progress(f"{model.name}: first start")
    _ready_s(served)
    timed = replace(served, python_options=("-X", "importtime"))
    starts = []
    for number in range(rounds):
        ready_s, _ = _ready_s(served)
        timed_ready_s, log = _ready_s(timed)
        starts.append(Start(ready_s, timed_ready_s, imports_s(log)))
        progress(f"round {number + 1} of {rounds}: ready after {ready_s:.2f} s")
    return starts


def _ready_s(served: Command) -> tuple[float, str]:
    with ServerProcess(served) as server:
        return server.ready_after_s, server.log()


def imports_s(log: str) -> float:
    """Return the seconds of all imports, from what ``-X importtime`` wrote: each its own only."""
    return sum(int(microseconds) for microseconds in _SELF_US.findall(log)) / 1e6


if __name__ == "__main__":
    sys.exit(main())
