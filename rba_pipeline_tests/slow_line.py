"""A long way to a service: everything that passes takes some time in each direction."""

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

_PATIENCE_S = 60


class SlowLine:
    """Forwards connections to a port on loopback while the block lasts; a piece of bytes is
    ``seconds`` on its way.
    """

    def __init__(self, port: int, *, seconds: float) -> None:
        self._port = port
        self._seconds = seconds
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        for each in (self._listener, *self._sockets):
            # Wakes up whoever reads it.
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(_PATIENCE_S)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                self._sockets += [near, far]
                self._start(self._carry, near, far)
                self._start(self._carry, far, near)

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while (data := source.recv(1 << 20)) and not self._closing.wait(self._seconds):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
