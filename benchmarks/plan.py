"""The minutes that a plan predicts against those that its runs take.

On an empty store (half of the partitions, with a service that has not worked yet and without any
earlier run), on the half-filled store that follows, and on the unchanged one after that. That each
run reports what was planned of documents, chunks, texts and tokens is checked as well. Runs are
launched in both ways: by backfills of Dagster's daemon, side by side, which is what
`rba-pipeline plan` predicts, and one after the other in one process, as `make demo` does. Every
round has a service, a database, a store and a Dagster of its own for each way.
"""

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import command_line
from benchmarks.reports import Goal, Spread, exit_code, goals_table, progress, table, write_json
from benchmarks.server_processes import ServerProcess
from benchmarks.sides import Model, command
from rba_pipeline.core.run_costs import Way
from rba_pipeline.resources.postgres import EmbeddedPostgres
from rba_pipeline.settings import SAMPLE_CORPUS
from rba_pipeline.stack import stopping_on_signals

MOST_ERROR = 0.30
_STATES = ("empty", "half-filled", "unchanged")
_WAYS = {"backfill": Way.PROCESSES, "one-process": Way.ONE_PROCESS}
_HEADINGS = ("runs, store", "texts", "predicted, s", "real, s", "ratio")
_ROUND_S = 3600
_STOP_S = 60
_DAGSTER_YAML = Path(__file__).parents[1] / "dagster.yaml"

# By the state of the store.
Figures = Mapping[str, Mapping[str, float]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and return 0 if every prediction is near enough, 130 after Ctrl-C
    or SIGTERM, else 1.
    """
    asked = _parser().parse_args(arguments)
    (model,) = command_line.models(asked)
    found: dict[str, list[Figures]] = {way: [] for way in asked.ways}
    try:
        with stopping_on_signals():
            for number in range(asked.rounds):
                for way in asked.ways:
                    progress(f"{way}: round {number + 1} of {asked.rounds}")
                    found[way].append(measured(model, asked, _WAYS[way]))
    except KeyboardInterrupt:
        progress("stopped, with everything that was started")
        return 130
    lines = [(way, state, rounds) for way, rounds in found.items() for state in _STATES]
    goals = [_goal(*line) for line in lines]
    print(table(_HEADINGS, [_row(*line) for line in lines]))
    print(f"\n{goals_table(goals)}")
    write_json(asked.out, "plan", {"ways": found}, goals)
    progress(f"figures: {asked.out}")
    return exit_code(goals)


def measured(model: Model, asked: argparse.Namespace, way: Way) -> Figures:
    """Return what one round found where runs are launched in this way."""
    serving = command(asked.precision, model, device=asked.device, cache=asked.cache)
    with ExitStack() as stopping:
        folder = Path(stopping.enter_context(tempfile.TemporaryDirectory()))
        home = folder / "dagster"
        home.mkdir()
        shutil.copy(_DAGSTER_YAML, home)
        server = EmbeddedPostgres(folder / "postgres", port=0, password=secrets.token_hex(8))
        # The data may lie elsewhere: for root the folder is a link.
        stopping.callback(server.remove)
        stopping.enter_context(server)
        service = stopping.enter_context(ServerProcess(serving))
        environment = {
            "DAGSTER_HOME": str(home),
            "DAGSTER_POSTGRES_URL": server.url("dagster"),
            "EMBEDDING_API_URL": service.url,
            "RBA_DATABASE_URL": server.url("rba"),
            "RBA_SOURCE": str(asked.corpus.absolute()),
            "RBA_STORE": str(folder / "store"),
        }
        return _run(environment, str(asked.partitions), way.name)


def _run(environment: dict[str, str], *arguments: str) -> Figures:
    names = ("RBA_", "EMBEDDING_", "DAGSTER_")
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(names)}
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.plan_run", *arguments],
        env=inherited | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            printed, _ = process.communicate(timeout=_ROUND_S)
        except BaseException:
            # Not killed at once: it has processes of Dagster to stop.
            process.terminate()
            try:
                process.wait(_STOP_S)
            finally:
                process.kill()
            raise
    if process.returncode:
        raise RuntimeError(f"a round ended with status {process.returncode}; see above")
    found: Figures = json.loads(printed.splitlines()[-1])
    return found


def _row(way: str, state: str, rounds: Sequence[Figures]) -> list[str]:
    predicted, real = _seconds(state, rounds)
    return [
        f"{way}, {state}",
        f"{rounds[0][state]['embedded']:,}",
        str(Spread.of(predicted)),
        str(Spread.of(real)),
        str(Spread.of_ratios(predicted, real)),
    ]


def _goal(way: str, state: str, rounds: Sequence[Figures]) -> Goal:
    error = abs(Spread.of_ratios(*_seconds(state, rounds)).middle - 1)
    return Goal(f"{way}, {state}: error of the median", error, MOST_ERROR, at_most=True)


def _seconds(state: str, rounds: Sequence[Figures]) -> tuple[list[float], list[float]]:
    predicted, real = ([each[state][name] for each in rounds] for name in ("predicted_s", "real_s"))
    return predicted, real


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser("plan", __doc__)
    command_line.add_rounds(parser)
    command_line.add_device(parser)
    command_line.add_models(parser)
    parser.add_argument(
        "--corpus",
        type=Path,
        default=SAMPLE_CORPUS,
        metavar="FOLDER",
        help="of publications; default: the sample corpus",
    )
    parser.add_argument(
        "--partitions", type=int, default=0, metavar="N", help="so many of them; default all"
    )
    parser.add_argument(
        "--way",
        dest="ways",
        nargs=1,
        choices=tuple(_WAYS),
        default=list(_WAYS),
        help="launch runs in this way only; default in both",
    )
    parser.add_argument("--precision", type=command_line.precision, default="fp32")
    parser.set_defaults(model=["minilm"])
    return parser


if __name__ == "__main__":
    sys.exit(main())
