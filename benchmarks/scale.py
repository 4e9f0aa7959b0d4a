"""What a chunk costs in partitions of 10 thousand, 100 thousand and a million.

From the chunks' record through the client to an oracle service of 384 dimensions, into parts on
disk and into an embedded Postgres with pgvector, durable as in use. Every partition has a process,
a corpus and a database of its own. CPU is that of the pipeline's process after its imports, and of
Postgres; the oracle's is not counted. The rows are counted at the end, and a sample of the vectors
is computed again. The smallest partition is measured before, between and after the others.
"""

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql

from benchmarks import command_line
from benchmarks.reports import (
    Goal,
    Spread,
    exit_code,
    goals_table,
    mib,
    progress,
    table,
    write_json,
)
from rba_pipeline.resources.postgres import EmbeddedPostgres
from rba_pipeline_tests.oracle_service import KEY, OracleService, oracle_vector

DIMENSIONS = 384
MOST_GROWTH = 1.10
_USUAL_SIZES = "10000,100000,1000000"
_SAMPLE = 1000
_RUN_S = 6 * 3600
_HEADINGS = (
    "chunks", "per second", "CPU us each", "of it pipeline", "of it Postgres", "peak RSS, MiB",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Figures:
    """What one partition took: seconds of wall and of processor time, and bytes."""

    chunks: int
    seconds: float
    cpu_s: float
    database_cpu_s: float
    peak_rss: int

    @property
    def cpu_us(self) -> float:
        """Return microseconds of processor time per chunk, of pipeline and database together."""
        return (self.cpu_s + self.database_cpu_s) / self.chunks * 1e6


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and return 0 if a chunk costs the same in every size, else 1."""
    asked = _parser().parse_args(arguments)
    asked.folder.mkdir(parents=True, exist_ok=True)
    found: dict[int, list[Figures]] = {}
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        with EmbeddedPostgres(folder / "postgres", port=0, password=secrets.token_hex(8)) as server:
            for size in _in_turns(asked.sizes):
                figures = measured(server, folder, size)
                found.setdefault(size, []).append(figures)
                progress(
                    f"{size:,} chunks: {size / figures.seconds:,.0f} per second, "
                    f"{figures.cpu_us:,.0f} us of CPU each, {mib(figures.peak_rss)} MiB"
                )
        server.remove()
    goals = goals_of(found)
    print(table(_HEADINGS, [_row(size, runs) for size, runs in found.items()]))
    print(f"\n{goals_table(goals)}")
    write_json(asked.out, "scale", {"sizes": found}, goals)
    progress(f"figures: {asked.out}")
    return exit_code(goals)


def measured(server: EmbeddedPostgres, folder: Path, chunks: int) -> Figures:
    """Write the record of a partition, embed and publish it, and return what that took.

    Raises:
        RuntimeError: A step failed, or a chunk has no vector, or not its own.
    """
    name = f"scale_{secrets.token_hex(4)}"
    source = folder / name
    source.mkdir()
    (source / "undated.txt").write_text("The catalogue of an empty folder would be refused.")
    with _database(server, name) as url, OracleService(dimensions=DIMENSIONS) as oracle:
        environment = {
            "RBA_SOURCE": str(source),
            "RBA_STORE": str(folder / "store"),
            "RBA_DATABASE_URL": url,
            "EMBEDDING_API_URL": oracle.url,
            "EMBEDDING_API_KEY": KEY,
        }
        _run(environment, "record", str(chunks))
        before_s = _cpu_s(folder)
        said = json.loads(_run(environment, "publish").splitlines()[-1])
        database_cpu_s = _cpu_s(folder) - before_s
        _check(url, chunks, said)
    return Figures(chunks, said["seconds"], said["cpu_s"], database_cpu_s, said["peak_rss"])


def goals_of(found: dict[int, list[Figures]]) -> list[Goal]:
    """Return what "the same in every size" means: at most a tenth more than in any smaller one."""
    goals = []
    for claim, figure in (("CPU per chunk", "cpu_us"), ("peak RSS", "peak_rss")):
        middles = [
            (Spread.of([getattr(each, figure) for each in runs]).middle, size)
            for size, runs in sorted(found.items())
        ]
        for place, (middle, size) in enumerate(middles[1:], start=1):
            least, of = min(middles[:place])
            told = f"{claim}, {size:,} chunks over {of:,}"
            goals.append(Goal(told, middle / least, MOST_GROWTH, at_most=True))
    return goals


def _in_turns(sizes: Sequence[int]) -> Iterator[int]:
    smallest, *others = sorted(set(sizes))
    yield smallest
    for size in others:
        yield from (size, smallest)


def _run(environment: dict[str, str], *arguments: str) -> str:
    names = ("RBA_", "EMBEDDING_", "DAGSTER_")
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(names)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale_run", *arguments],
        env=inherited | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_RUN_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{arguments[0]} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


@contextmanager
def _database(server: EmbeddedPostgres, name: str) -> Iterator[str]:
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield server.url(name)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _cpu_s(folder: Path) -> float:
    """Return the processor time of all of Postgres' processes so far, those that ended too."""
    pid = int((folder / "postgres" / "data" / "postmaster.pid").read_text().splitlines()[0])
    postmaster = psutil.Process(pid)
    its = postmaster.cpu_times()
    running = [each.cpu_times() for each in (postmaster, *postmaster.children(recursive=True))]
    ended_s = its.children_user + its.children_system
    return float(ended_s + sum(times.user + times.system for times in running))


def _check(url: str, chunks: int, said: dict[str, int]) -> None:
    """Make sure that every chunk has one vector, its own as far as a sample shows."""
    with psycopg.connect(url) as connection:
        register_vector(connection)
        row = connection.execute("SELECT count(*), count(DISTINCT text_hash) FROM vectors")
        counted = row.fetchone()
        share = min(100.0, 120.0 * _SAMPLE / chunks)
        sample = connection.execute(
            f"SELECT text, embedding FROM vectors TABLESAMPLE BERNOULLI ({share})"
        ).fetchall()
    if counted != (chunks, chunks) or (said["embedded"], said["vectors"]) != (chunks, chunks):
        raise RuntimeError(f"{chunks} chunks were recorded, {counted} are stored; {said}")
    for text, vector in sample:
        if not np.allclose(vector.to_numpy(), oracle_vector(text, DIMENSIONS), atol=1e-6):
            raise RuntimeError(f"not the vector of this text: {text[:60]!r}")
    if len(sample) < min(chunks, _SAMPLE) / 2:
        raise RuntimeError(f"only {len(sample)} vectors were looked at")


def _row(size: int, runs: Sequence[Figures]) -> list[str]:
    return [
        f"{size:,}",
        str(Spread.of([size / each.seconds for each in runs])),
        str(Spread.of([each.cpu_us for each in runs])),
        str(Spread.of([each.cpu_s / size * 1e6 for each in runs])),
        str(Spread.of([each.database_cpu_s / size * 1e6 for each in runs])),
        str(Spread.of([each.peak_rss / 2**20 for each in runs])),
    ]


def _sizes(text: str) -> list[int]:
    return [command_line.positive(part) for part in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes",
        type=_sizes,
        default=_USUAL_SIZES,
        metavar="LIST",
        help=f"chunks of each partition; default {_USUAL_SIZES}",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()),
        metavar="FOLDER",
        help="where store and database lie meanwhile, some 6 GB for a million chunks; default "
        f"{tempfile.gettempdir()}",
    )
    command_line.add_out(parser, "scale")
    return parser


if __name__ == "__main__":
    sys.exit(main())
