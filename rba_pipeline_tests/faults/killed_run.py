"""One partition in a process of its own, that ends by SIGKILL at a chosen operation on a file.

``python -m rba_pipeline_tests.faults.killed_run PARTITION [EVENT FRAGMENT OCCURRENCE]``: just
before the OCCURRENCE-th EVENT (``open`` for writing, ``os.rename``, ``os.remove``) whose path has
FRAGMENT. Prints why the run failed, if it did.
"""

import os
import signal
import sys
from typing import Any

from rba_pipeline.materialise import materialise
from rba_pipeline.settings import Settings

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def main(partition: str, *gate: str) -> int:
    """Return 0 if the partition is green, 1 if it is red."""
    if gate:
        _die_at(*gate)
    failures = [
        result.failure
        for result in materialise(Settings.read(os.environ), [partition])
        if result.failure
    ]
    print("\n".join(failures))
    return 1 if failures else 0


def _die_at(event: str, fragment: str, occurrence: str) -> None:
    left = int(occurrence)

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if name != event or not _concerns(name, arguments, fragment):
            return
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    # Python tells of each operation just before it is done.
    sys.addaudithook(hook)


def _concerns(name: str, arguments: tuple[Any, ...], fragment: str) -> bool:
    if name == "open":
        path, _, flags = arguments
        return isinstance(flags, int) and bool(flags & _WRITES) and fragment in str(path)
    return fragment in str(arguments[1] if name == "os.rename" else arguments[0])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
