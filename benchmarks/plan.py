"""The minutes that a plan predicts against those that its runs take.

On an empty store (half of the partitions, with a service that has not worked yet and without any
earlier run), on the half-filled store that follows, and on the unchanged one after that. Every
round has a service, a database, a store and a Dagster of its own. That each run embeds, reuses,
adds and deletes what was planned is checked as well. The runs follow each other in one process, or
are backfills of Dagster's daemon, side by side (``--backfill``).
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
from pathlib import Path

from benchmarks import command_line
from benchmarks.reports import Goal, Spread, exit_code, goals_table, progress, table, write_json
from benchmarks.server_processes import ServerProcess
from benchmarks.sides import Model, command
from rba_pipeline.core.run_costs import Way
from rba_pipeline.resources.postgres import EmbeddedPostgres
from rba_pipeline.settings import SAMPLE_CORPUS

MOST_ERROR = 0.30
_STATES = ("empty", "half-filled", "unchanged")
_ROUND_S = 3600
_DAGSTER_YAML = Path(__file__).parents[1] / "dagster.yaml"

Figures = Mapping[str, Mapping[str, float]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and return 0 if every prediction is near enough, else 1."""
    asked = _parser().parse_args(arguments)
    (model,) = command_line.models(asked)
    rounds: list[Figures] = []
    for number in range(asked.rounds):
        progress(f"round {number + 1} of {asked.rounds}")
        rounds.append(measured(model, asked))
    rows, goals = [], []
    for state in _STATES:
        predicted, real, texts = (
            [each[state][name] for each in rounds] for name in ("predicted_s", "real_s", "embedded")
        )
        ratio = Spread.of_ratios(predicted, real)
        rows.append(
            [state, f"{texts[0]:,}", str(Spread.of(predicted)), str(Spread.of(real)), ratio]
        )
        goals.append(
            Goal(f"{state}: error of the median", abs(ratio.middle - 1), MOST_ERROR, at_most=True)
        )
    print(table(["store", "texts", "predicted, s", "real, s", "ratio"], rows))
    print(f"\n{goals_table(goals)}")
    write_json(asked.out, "plan", {"rounds": rounds}, goals)
    progress(f"figures: {asked.out}")
    return exit_code(goals)


def measured(model: Model, asked: argparse.Namespace) -> Figures:
    """Return what one round found, by the state of the store."""
    serving = command(asked.precision, model, device=asked.device, cache=asked.cache)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home = folder / "dagster"
        home.mkdir()
        shutil.copy(_DAGSTER_YAML, home)
        server = EmbeddedPostgres(folder / "postgres", port=0, password=secrets.token_hex(8))
        with server, ServerProcess(serving) as service:
            environment = {
                "DAGSTER_HOME": str(home),
                "DAGSTER_POSTGRES_URL": server.url("dagster"),
                "EMBEDDING_API_URL": service.url,
                "RBA_DATABASE_URL": server.url("rba"),
                "RBA_SOURCE": str(asked.corpus.absolute()),
                "RBA_STORE": str(folder / "store"),
            }
            way = Way.PROCESSES if asked.backfill else Way.ONE_PROCESS
            found = _run(environment, str(asked.partitions), way.name)
        server.remove()
    return found


def _run(environment: dict[str, str], *arguments: str) -> Figures:
    names = ("RBA_", "EMBEDDING_", "DAGSTER_")
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(names)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.plan_run", *arguments],
        env=inherited | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=_ROUND_S,
        check=True,
    )
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    return found


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
        "--backfill",
        action="store_true",
        help="have Dagster's daemon run them side by side; else one after the other in one process",
    )
    parser.add_argument("--precision", type=command_line.precision, default="fp32")
    parser.set_defaults(model=["minilm"])
    return parser


if __name__ == "__main__":
    sys.exit(main())
