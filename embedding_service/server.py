"""A process around the application: socket, signals, readiness, exit code."""

import asyncio
import contextlib
import json
import logging
import os
import resource
import signal
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any, NoReturn

import uvicorn

from embedding_service.api.bodies import Uploads
from embedding_service.app import create_app
from embedding_service.backend.base import Backend
from embedding_service.connections import (
    TOLD_THAT_THERE_IS_NO_ROOM,
    Connection,
    ConnectionLimits,
)
from embedding_service.engine.lifecycle import Lifecycle
from embedding_service.errors import SettingRefused, StartupError
from embedding_service.settings import PREFIX, Settings

_logger = logging.getLogger(__name__)

EXIT_STOPPED, EXIT_BROKEN, EXIT_REFUSED = 0, 1, 2

# After draining: for the owner thread to end, and to send the answers that are ready.
_STOP_S = 1
_SEND_S = 5
# After a second signal: what is ready goes out, and nobody is waited for.
_LAST_S = 0.5
# Longer than a client pauses between two batches: a connection closed under it costs it a retry.
_KEEP_ALIVE_S = 120
# How many connections asyncio accepts before it does anything else.
_BACKLOG = 128
# Beside the connections: those that are told to come back, those that were accepted and have not
# been looked at yet, which is done three turns of the loop later, and the service's own.
FILES_BESIDE = TOLD_THAT_THERE_IS_NO_ROOM + 4 * _BACKLOG + 128


class _Server(uvicorn.Server):
    """Leaves signals to us: they begin a drain, not an end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def allow_files(max_connections: int) -> None:
    """Let this process open as many files as so many connections take, and what is beside them.

    With none left, asyncio logs a traceback for each connection that it cannot accept, without end.

    Raises:
        SettingRefused: The system does not allow as many.
    """
    needed = max_connections + FILES_BESIDE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        most = hard - FILES_BESIDE
        expected = f"expected at most {most}, or more files" if most > 0 else "expected more files"
        raise SettingRefused(
            f"{PREFIX}MAX_CONNECTIONS={max_connections}: {expected} (ulimit -Hn): with "
            f"{FILES_BESIDE} for other things it takes {needed}, and this process may open {hard}"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def bind(settings: Settings) -> socket.socket:
    """Return a listening socket; port 0 has become a real one.

    Raises:
        SettingRefused: The address is not ours, or taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        raise SettingRefused(
            f"{PREFIX}HOST={settings.host}, {PREFIX}PORT={settings.port}: cannot listen: {error}"
        ) from error
    return listener


def run(
    settings: Settings, *, ready_fd: int | None = None, backend: Backend | None = None
) -> NoReturn:
    """Serve until a signal or a breakdown, and end the process with its exit code.

    Args:
        settings: As checked by ``read_settings``.
        ready_fd: Gets one line of JSON with port and pid once requests are let in, then is closed.
        backend: Served in place of the model that ``settings`` names.
    """
    _check_descriptor(ready_fd)
    allow_files(settings.max_connections)
    listener = bind(settings)
    process = _Process(settings, listener, ready_fd, backend)
    asyncio.run(process.serve())


def _check_descriptor(ready_fd: int | None) -> None:
    try:
        if ready_fd is not None:
            os.fstat(ready_fd)
    except OSError as error:
        raise SettingRefused(f"--ready-fd={ready_fd}: not an open file descriptor") from error


class _Process:
    """One life of the service: listening, ready, draining, ended."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        ready_fd: int | None,
        backend: Backend | None,
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._ready_fd = ready_fd
        app = create_app(settings, backend, on_ready=self._ready, on_broken=self._broken)
        self._lifecycle: Lifecycle = app.state.lifecycle
        self._uploads: Uploads = app.state.uploads
        limits = ConnectionLimits(
            settings.max_connections, settings.body_seconds, app.state.metrics.refused
        )
        self._server = _Server(
            uvicorn.Config(
                app,
                http=partial(Connection, limits=limits),  # type: ignore[arg-type]
                access_log=False,
                log_config=None,
                server_header=False,
                ws="none",
                backlog=_BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_SEND_S,
            )
        )
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop
        self._asked_to_stop: asyncio.Event
        self._asked_again: asyncio.Event

    async def serve(self) -> NoReturn:
        self._loop = asyncio.get_running_loop()
        self._asked_to_stop = asyncio.Event()
        self._asked_again = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal)
        serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        stopping = asyncio.create_task(self._asked_to_stop.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        again = asyncio.create_task(self._asked_again.wait())
        await self._end(again)
        await asyncio.wait({serving, again}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({serving}, timeout=_LAST_S)
        if serving.done():
            await serving
        # No return: a thread inside model or tokenizer cannot be interrupted and would hold up the
        # end, and a signal while the interpreter ends would take the place of the exit code.
        logging.shutdown()
        os._exit(self._exit_code())

    def _on_signal(self) -> None:
        (self._asked_again if self._asked_to_stop.is_set() else self._asked_to_stop).set()

    async def _end(self, again: "asyncio.Future[Any]") -> None:
        """Drain, unless broken or asked twice; answer whoever is left."""
        patience_s = 0.0 if self._error else self._settings.drain_seconds
        _logger.info("stopping; accepted requests have %g s", patience_s)
        drained = self._loop.run_in_executor(None, self._lifecycle.drain, patience_s)
        await asyncio.wait({drained, again}, return_when=asyncio.FIRST_COMPLETED)
        self._uploads.end()
        stop_s = 0 if again.done() else _STOP_S
        stopped = self._loop.run_in_executor(None, self._lifecycle.stop, stop_s)
        # An early second signal is in stop_s; a late one ends the wait.
        late: set[asyncio.Future[Any]] = {stopped} if again.done() else {stopped, again}
        await asyncio.wait(late, return_when=asyncio.FIRST_COMPLETED)
        self._server.should_exit = True

    def _exit_code(self) -> int:
        if self._error is None:
            return EXIT_STOPPED
        return EXIT_REFUSED if isinstance(self._error, StartupError) else EXIT_BROKEN

    def _ready(self) -> None:
        host, port = self._listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        engine = self._lifecycle.engine()
        space = engine.backend.space
        _logger.info(
            "ready on http://%s:%d: %s on %s, space %s",
            shown, port, space.model, engine.backend.device, space.id,
        )  # fmt: skip
        if self._ready_fd is not None:
            with open(self._ready_fd, "w", encoding="ascii") as ready:
                ready.write(json.dumps({"port": port, "pid": os.getpid()}) + "\n")

    def _broken(self, error: BaseException) -> None:
        self._error = error
        if isinstance(error, StartupError):
            _logger.error("%s", error)
        else:
            _logger.error("the service has broken down: %s", error)
        self._loop.call_soon_threadsafe(self._asked_to_stop.set)
