"""Child processes with a log: started, watched and stopped by one parent, and never left."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rba_pipeline.core.errors import RbaError

_LOG_BYTES = 16 * 2**20
_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class Component:
    """One child: its name for people, its log, and the process, which leads a group of its own.

    The log may hold the lines of earlier children: ours begin at byte ``log_begin``.
    """

    name: str
    log: Path
    log_begin: int
    process: subprocess.Popen[bytes]

    def logged(self) -> str:
        """Return all that the child has written so far."""
        with self.log.open("rb") as file:
            file.seek(self.log_begin)
            return file.read().decode(errors="replace")

    def died(self) -> RbaError:
        """Return the error that says how it ended, with the last lines of its log."""
        status = self.process.poll()
        end = last_lines(self.log)
        return RbaError(f"{self.name} ended with status {status}. The end of {self.log}:\n{end}")


def start(
    name: str,
    command: Sequence[str],
    *,
    log: Path,
    cwd: Path,
    environment: Mapping[str, str],
    pass_fds: Sequence[int] = (),
) -> Component:
    """Start a child that gets SIGTERM from the kernel when the calling *thread* ends, in any way.

    Its output goes to the end of ``log``: a file, so that nothing blocks or breaks when the parent
    is gone. It leads a group of its own, so that Ctrl-C in a terminal reaches the parent alone, and
    ``stop`` everything below the child.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
    with log.open("ab") as file:
        begin = file.tell()
        process = subprocess.Popen(
            [*_leash(), *command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=dict(environment),
            pass_fds=pass_fds,
            start_new_session=True,
        )
    return Component(name, log, begin, process)


def wait_until(ready: Callable[[], bool], component: Component, deadline_s: float) -> None:
    """Wait until ``ready()``, asked ten times a second.

    Raises:
        RbaError: The component ended first, or was not ready after ``deadline_s`` seconds.
    """
    end = time.monotonic() + deadline_s
    while not ready():
        if component.process.poll() is not None:
            raise component.died()
        if time.monotonic() > end:
            raise RbaError(
                f"{component.name} is not ready after {deadline_s:g} s. "
                f"The end of {component.log}:\n{last_lines(component.log)}"
            )
        time.sleep(_PAUSE_S)


def stop(components: Sequence[Component], grace_s: float) -> None:
    """Stop all at once: SIGTERM to each group, SIGKILL to what is left after ``grace_s`` seconds.

    Returns when no process of their groups is left.
    """
    for component in components:
        _signal(component, signal.SIGTERM)
    end = time.monotonic() + grace_s
    for component in components:
        while _alive(component) and time.monotonic() < end:
            time.sleep(_PAUSE_S / 2)
        _signal(component, signal.SIGKILL)
        component.process.wait()


def last_lines(log: Path, count: int = 12) -> str:
    """Return the end of a log, at most 16 KiB of it; empty without one."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 16384))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-count:])
    except FileNotFoundError:
        return ""


def _leash() -> list[str]:
    # util-linux; a preexec_fn would make Popen fork with every thread's locks as they are.
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []


def _alive(component: Component) -> bool:
    component.process.poll()
    try:
        os.killpg(component.process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _signal(component: Component, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(component.process.pid, number)
