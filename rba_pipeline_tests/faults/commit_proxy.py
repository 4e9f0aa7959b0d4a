"""Stands between a client and Postgres, and breaks the line at one COMMIT."""

import socket
from contextlib import suppress
from threading import Event, Thread
from types import TracebackType
from typing import Self

from rba_pipeline.resources.ports import LOOPBACK

_BLOCK = 65536


class CommitProxy:
    """Passes everything on, until it is armed and sees the next COMMIT.

    Attributes:
        struck: Set once the line was broken; later connections are left alone.
    """

    def __init__(self, port: int, *, deliver: bool) -> None:
        """Name the server's ``port``.

        Args:
            deliver: The server gets the COMMIT, and only its reply is lost; else neither arrives.
        """
        self.struck = Event()
        self._armed = Event()
        self._server = (LOOPBACK, port)
        self._deliver = deliver
        self._listener = socket.create_server((LOOPBACK, 0))
        self._open: list[socket.socket] = []

    @property
    def port(self) -> int:
        """The port for the client."""
        return int(self._listener.getsockname()[1])

    def arm(self) -> None:
        """Break the line at the next COMMIT."""
        self._armed.set()

    def __enter__(self) -> Self:
        Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _end(self._listener, *self._open)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._server)
            self._open += [client, server]
            commit_is_out = Event()
            for pump in (self._requests, self._replies):
                Thread(target=pump, args=(client, server, commit_is_out), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket, commit: Event) -> None:
        with suppress(OSError):
            while data := client.recv(_BLOCK):
                if b"COMMIT\x00" in data and self._armed.is_set() and not self.struck.is_set():
                    commit.set()
                    if not self._deliver:
                        self.struck.set()
                        break
                server.sendall(data)
        _end(client, server)

    def _replies(self, client: socket.socket, server: socket.socket, commit: Event) -> None:
        with suppress(OSError):
            while data := server.recv(_BLOCK):
                if commit.is_set():
                    # It has been committed: that is what this reply says.
                    self.struck.set()
                    break
                client.sendall(data)
        _end(client, server)


def _end(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
