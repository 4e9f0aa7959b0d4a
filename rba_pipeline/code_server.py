"""The code location of a container: it serves the definitions, and looks after lost runs.

All runs that are launched are children of its server. Those of a former container are gone with
it, and nobody else would notice one that is killed alone, for its memory for instance.
"""

import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import dagster as dg

from rba_pipeline.lost_runs import look_again

_LOST_RUNS_EVERY_S = 15.0


def serve(
    instance: dg.DagsterInstance, command: Sequence[str], every_s: float = _LOST_RUNS_EVERY_S
) -> int:
    """Fail the runs that are lost, run the server until it ends, and return its exit status.

    Args:
        every_s: Seconds between two looks for runs that were killed meanwhile.
    """
    look = partial(look_again, instance, _say, only_launched=True)
    look()
    server = subprocess.Popen(command)
    before = signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    try:
        while True:
            try:
                return server.wait(every_s)
            except subprocess.TimeoutExpired:
                look()
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(words: str) -> None:
    print(f"killed run: {words}", flush=True)


def main() -> None:
    """Serve with the options of ``dagster api grpc``, over the instance of DAGSTER_HOME."""
    dagster = str(Path(sys.executable).with_name("dagster"))
    with dg.DagsterInstance.get() as instance:
        status = serve(instance, [dagster, "api", "grpc", *sys.argv[1:]])
    sys.exit(status)


if __name__ == "__main__":
    main()
