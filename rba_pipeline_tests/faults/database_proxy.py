"""A proxy before Postgres that sees each message of the client, and may act before or after it."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from enum import Enum
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104
PATIENCE_S = 60


class Fate(Enum):
    """What becomes of a message, and of all that follows it on its connection."""

    PASSES = "it is answered"
    UNANSWERED = "the server gets it, and its answer is lost"
    LOST = "the server never gets it"
    CUT = "the server never gets it, and the line breaks"
    ANSWER_CUT = "the server gets it, and the line breaks before its answer"


# Gets a message's type (b"Q" query, b"P" parse, b"d" copy data, b"c" copy done, …) and its content.
Watcher = Callable[[bytes, bytes], Fate]
Sees = Callable[[bytes, bytes], bool]


def query(fragment: bytes) -> Sees:
    """Return what sees a statement with ``fragment``."""
    return lambda kind, content: kind in (b"Q", b"P") and fragment in content


def copying_into(table: bytes) -> Sees:
    """Return what sees the first data of a COPY into ``table``."""
    begun = False

    def sees(kind: bytes, content: bytes) -> bool:
        nonlocal begun
        begun = begun or query(b"COPY " + table)(kind, content)
        return begun and kind == b"d"

    return sees


class DatabaseProxy:
    """Forwards connections to the database of ``url`` while the block lasts.

    Attributes:
        watch: Called in a thread of the connection, for every message of the client after login.
        answer_lost: Set when a client was left without an answer.
    """

    def __init__(self, url: str) -> None:
        self._to = urlsplit(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self.watch: Watcher = lambda kind, content: Fate.PASSES
        self.answer_lost = threading.Event()

    @property
    def url(self) -> str:
        """Return the database's address through this proxy."""
        port = self._listener.getsockname()[1]
        login = self._to.netloc.rpartition("@")[0]
        return urlunsplit(self._to._replace(netloc=f"{login}@127.0.0.1:{port}"))

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each in (self._listener, *self._sockets):
            # Wakes up whoever reads it.
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection((self._to.hostname, self._to.port))
            except OSError:
                # Nobody is there: to the client it is as if it had called itself.
                client.close()
                continue
            self._sockets += [client, server]
            muted, breaking = threading.Event(), threading.Event()
            self._start(self._to_server, client, server, muted, breaking)
            self._start(self._to_client, client, server, muted, breaking)

    def _to_server(
        self,
        client: socket.socket,
        server: socket.socket,
        muted: threading.Event,
        breaking: threading.Event,
    ) -> None:
        with contextlib.suppress(OSError, EOFError):
            _log_in(client, server)
            lost = False
            for kind, content in _messages(client):
                fate = self.watch(kind, content)
                lost = lost or fate in (Fate.LOST, Fate.CUT)
                if fate is Fate.ANSWER_CUT:
                    breaking.set()
                if fate is not Fate.PASSES:
                    muted.set()
                if fate is Fate.CUT:
                    self.answer_lost.set()
                    client.shutdown(socket.SHUT_RDWR)
                if not lost:
                    server.sendall(kind + struct.pack("!i", len(content) + 4) + content)
        # The server ends the session of a client that is gone.
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    def _to_client(
        self,
        client: socket.socket,
        server: socket.socket,
        muted: threading.Event,
        breaking: threading.Event,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if not muted.is_set():
                    client.sendall(data)
                    continue
                self.answer_lost.set()
                if breaking.is_set():
                    client.shutdown(socket.SHUT_RDWR)
        # However the server went: one that is killed resets the line.
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_WR)


def _log_in(client: socket.socket, server: socket.socket) -> None:
    """Forward what has no type: requests for encryption, and the start of the session."""
    while True:
        head = _exactly(client, 8)
        length, code = struct.unpack("!ii", head)
        server.sendall(head + _exactly(client, length - 8))
        if code not in (_SSL_REQUEST, _GSS_REQUEST):
            return


def _messages(client: socket.socket) -> Iterator[tuple[bytes, bytes]]:
    while True:
        head = _exactly(client, 5)
        yield head[:1], _exactly(client, struct.unpack("!i", head[1:])[0] - 4)


def _exactly(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = source.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data
