"""The embedding service as a process of its own, for tests that talk to it over loopback."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from types import TracebackType
from typing import IO, Self

KEY = "a-key-for-tests"
_START_S = 120
_STOP_S = 60


class ServiceProcess:
    """Starts ``python -m embedding_service`` on a free port; waits until it lets requests in.

    ``env`` is put over the environment of this process, from which every ``EMBEDDING_`` variable
    is taken out. A port in it (``EMBEDDING_PORT``) is kept, so that a service can be restarted
    where it was. ``module`` may name another module with the same ``--ready-fd``.
    """

    def __init__(
        self, env: Mapping[str, str] | None = None, *, module: str = "embedding_service"
    ) -> None:
        self._env = dict(env or {})
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self.key = self._env.get("EMBEDDING_API_KEY", KEY)
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def log(self) -> str:
        """Everything that the process has written so far."""
        if self._log is None:
            return ""
        with open(self._log.name, "rb") as file:
            return file.read().decode(errors="replace")

    def start(self, env: Mapping[str, str] | None = None) -> Self:
        """Start and wait; ``env`` is added to that of the constructor.

        Raises:
            RuntimeError: The process ended before it was ready; the text holds its log.
            TimeoutError: It is not ready after 120 s, and has been killed.
        """
        ready = self.spawn(env)
        try:
            self._wait_until_ready(ready)
        except BaseException:
            self.kill()
            raise
        return self

    def spawn(self, env: Mapping[str, str] | None = None) -> int:
        """Start without waiting; return the descriptor on which readiness will be told."""
        self._env |= env or {}
        self.key = self._env.get("EMBEDDING_API_KEY", KEY)
        self._log = tempfile.NamedTemporaryFile(prefix="service-", suffix=".log")  # noqa: SIM115
        readable, writable = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module, "--ready-fd", str(writable)],
                env=self._environment(),
                pass_fds=[writable],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
            )
        finally:
            os.close(writable)
        return readable

    def _environment(self) -> dict[str, str]:
        # Prepared models are shared by all services of a test run.
        kept = os.environ.get("EMBEDDING_CACHE_DIR")
        inherited = {n: v for n, v in os.environ.items() if not n.startswith("EMBEDDING_")}
        inherited |= {"EMBEDDING_CACHE_DIR": kept} if kept else {}
        usual = {"EMBEDDING_PORT": "0", "EMBEDDING_API_KEY": KEY, "HF_HUB_OFFLINE": "1"}
        return inherited | usual | self._env

    def _wait_until_ready(self, readable: int) -> None:
        deadline = time.monotonic() + _START_S
        line = b""
        with open(readable, "rb", buffering=0) as ready:
            while not line.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([ready], [], [], left)[0]:
                    raise TimeoutError(f"not ready after {_START_S} s:\n{self.log}")
                piece = ready.read(256)
                if not piece:
                    code = self._running().wait(_STOP_S)
                    raise RuntimeError(f"ended with {code} before it was ready:\n{self.log}")
                line += piece
        self.port = int(json.loads(line)["port"])

    def terminate(self) -> None:
        """Ask it to stop, and do not wait."""
        self._running().send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = _STOP_S) -> int:
        """Return the exit code once the process has ended."""
        return self._running().wait(timeout_s)

    def stop(self) -> int:
        """Ask it to stop and return its exit code; kill it if that takes over 60 s."""
        self.terminate()
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """End it as a crash would. Harmless when it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_STOP_S)

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise RuntimeError("the service was not started")
        return self._process

    def __enter__(self) -> Self:
        return self if self._process is not None else self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stop()
        if self._log is not None:
            self._log.close()
