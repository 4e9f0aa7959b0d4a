"""Backfill a whole corpus, kill the daemon and a run in the middle, and account for everything.

Real parts on free ports, in a folder of their own: embedded Postgres, embedding service, code
server, daemon, web interface. ``rba-pipeline backfill --all`` is started as a user would. At a
third of the partitions the daemon is killed (kill -9), and started again when its runs have ended;
at half a run is killed in the middle of its embeddings. Returns 0 if every partition is green and
every figure of the account holds, else 1.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.reports import progress, table
from rba_pipeline.core.errors import RbaError
from rba_pipeline_tests.survival.account import Line, Place, account
from rba_pipeline_tests.survival.backfill import backfilled, of_dagster, of_service
from rba_pipeline_tests.survival.parts import running

_SAMPLE = 300


def main(arguments: Sequence[str] | None = None) -> int:
    """Do it all, print the account, and return 0 if everything holds."""
    asked = _parser().parse_args(arguments)
    corpus = asked.corpus.resolve()
    if not Place(corpus, corpus, "", "", "", "").publications():
        raise SystemExit(f"{corpus} holds no publication: expected HTML pages or PDFs")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="survival-") as folder:
        try:
            with running(Path(folder), corpus, asked.model) as parts:
                struck = backfilled(parts, asked.preset)
                progress("counting ...")
                lines = [
                    *of_dagster(parts, struck),
                    *account(parts.place, asked.sample),
                    *of_service(parts, struck),
                ]
        except RbaError as error:
            raise SystemExit(str(error)) from error
    print(table(["", "found", "expected", ""], [line.cells() for line in lines]))
    broken = [line for line in lines if not line.holds]
    print(_summary(lines, broken, time.monotonic() - began))
    return 1 if broken else 0


def _summary(lines: Sequence[Line], broken: Sequence[Line], seconds: float) -> str:
    told = f"{len(lines) - len(broken)} of {len(lines)} hold, after {seconds:.0f} s"
    return "\n".join([told, *(f"BROKEN: {line.claim}: {line.found}" for line in broken)])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="survival",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--corpus", type=Path, required=True, metavar="FOLDER", help="publications, in any folders"
    )
    parser.add_argument("--preset", default="cpu-prod", help="default cpu-prod")
    parser.add_argument(
        "--model", metavar="NAME", help="a name or a folder; default: the service's own"
    )
    parser.add_argument(
        "--sample",
        type=int,
        default=_SAMPLE,
        metavar="N",
        help=f"vectors that are computed again, spread over the years; default {_SAMPLE}",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
