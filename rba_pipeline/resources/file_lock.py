"""Advisory locks on files, which the kernel gives back when their holder dies, however it dies."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rba_pipeline.core.errors import RbaError

_PAUSE_S = 0.05


class FileLock:
    """One holder's part in the lock that ``path`` stands for. The file itself stays for ever."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def try_exclusive(self) -> bool:
        """Return whether nobody else holds it, in which case it is ours alone.

        On False a part held before is given up: the kernel converts a lock by letting go first.
        """
        return self._try(fcntl.LOCK_EX)

    def exclusive(self, deadline_s: float) -> None:
        """Wait until nobody else holds it.

        Raises:
            RbaError: Somebody still held it after ``deadline_s`` seconds.
        """
        self._wait(fcntl.LOCK_EX, deadline_s)

    def shared(self, deadline_s: float) -> None:
        """Wait until nobody holds it exclusively, then hold it together with others.

        Raises:
            RbaError: Somebody still held it exclusively after ``deadline_s`` seconds.
        """
        self._wait(fcntl.LOCK_SH, deadline_s)

    def release(self) -> None:
        """Give it up; calling it twice is no error."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _try(self, kind: int) -> bool:
        try:
            fcntl.flock(self._fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _wait(self, kind: int, deadline_s: float) -> None:
        # flock has no time-out of its own, and an alarm would need the main thread.
        end = time.monotonic() + deadline_s
        while not self._try(kind):
            if time.monotonic() > end:
                raise RbaError(
                    f"{self.path} is still locked by another process after {deadline_s:g} s"
                )
            time.sleep(_PAUSE_S)


@contextmanager
def held(path: Path, deadline_s: float) -> Iterator[None]:
    """Hold ``path`` alone for the block.

    Raises:
        RbaError: Somebody still held it after ``deadline_s`` seconds.
    """
    lock = FileLock(path)
    try:
        lock.exclusive(deadline_s)
        yield
    finally:
        lock.release()
