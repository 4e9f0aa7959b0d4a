"""A server as a process of its own, its memory and its time on the processor."""

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

_START_S = 900  # a first start may quantise and compile the model
_STOP_S = 60
_KIB = 1024
# What a caller's shell may hold and would change either side's behaviour.
_NOT_INHERITED = ("EMBEDDING_", "OMP_", "KMP_", "MKL_", "ONEDNN_", "GOMP_")


class ServerBroken(Exception):
    """The process ended, or did not become ready; the text holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Command:
    """How to start a server that knows ``--ready-fd``."""

    module: str
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    python_options: Sequence[str] = ()


class ServerProcess:
    """A context: the server is ready inside of it, and gone after it."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.NamedTemporaryFile()  # noqa: SIM115 - closed on leaving the context
        self.port = 0
        self.ready_after_s = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._running().pid

    def peak_rss(self) -> int:
        """Return the most bytes that the process has held in memory so far."""
        return self._status("VmHWM") * _KIB

    def rss(self) -> int:
        """Return the bytes that the process holds in memory now."""
        return self._status("VmRSS") * _KIB

    def cpu_s(self) -> float:
        """Return the seconds of processor time that all threads have used."""
        text = Path(f"/proc/{self.pid}/stat").read_text()
        user, system = text.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def log(self) -> str:
        """Return everything that the process has written so far."""
        with open(self._log.name, "rb") as file:
            return file.read().decode(errors="replace")

    def _status(self, name: str) -> int:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        found = [line for line in lines if line.startswith(f"{name}:")]
        if not found:
            raise ServerBroken(f"{self._command.module} has ended:\n{self.log()[-2000:]}")
        return int(found[0].split()[1])

    def __enter__(self) -> Self:
        readable, writable = os.pipe()
        began = time.monotonic()
        try:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, *self._command.python_options),
                    *("-m", self._command.module),
                    *self._command.arguments,
                    *("--ready-fd", str(writable)),
                ],
                env=_environment(self._command.environment),
                pass_fds=[writable],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
            )
        finally:
            os.close(writable)
        try:
            self.port = self._wait_until_ready(readable, began + _START_S)
        except BaseException:
            self._end()
            raise
        self.ready_after_s = time.monotonic() - began
        return self

    def _wait_until_ready(self, readable: int, deadline: float) -> int:
        line = b""
        with open(readable, "rb", buffering=0) as ready:
            while not line.endswith(b"\n"):
                left_s = max(0.0, deadline - time.monotonic())
                if not select.select([ready], [], [], left_s)[0]:
                    raise ServerBroken(f"{self._command.module}: not ready after {_START_S} s")
                piece = ready.read(256)
                if not piece:
                    raise ServerBroken(
                        f"{self._command.module} did not start:\n{self.log()[-2000:]}"
                    )
                line += piece
        return int(json.loads(line)["port"])

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
        self._log.close()

    def _end(self) -> None:
        process = self._running()
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_STOP_S)

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise RuntimeError("the server was not started")
        return self._process


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)
    }
    return inherited | {"HF_HUB_OFFLINE": "1", "EMBEDDING_PORT": "0"} | dict(own)
