"""HTTP with a total deadline: from connecting to the last byte of the answer.

A read time-out starts again with every byte, so that a reply that drips outlasts it.
"""

import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError
from urllib3.util.ssl_ import create_urllib3_context

CONNECT_TIMEOUT_S = 5.0
_PIECE = 1 << 16

_deadline: ContextVar[float] = ContextVar("deadline", default=float("inf"))


class ConnectionFailed(Exception):
    """No connection, or it was lost; the message says how."""


class DeadlinePassed(Exception):
    """The whole answer was not there in time."""


class ReplyRefused(Exception):
    """The answer is larger than any honest one, or compressed; the rest of it was not read."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, whole; ``headers`` do not tell upper from lower case.

    ``seconds`` is from the call to the last byte.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float = 0.0

    def json(self) -> object:
        """Return the body's value; raises ``ValueError`` where it is not JSON."""
        return json.loads(self.body)


class DeadlineSession:
    """Requests to a neighbour, safe to use from many threads."""

    def __init__(self) -> None:
        self._open = _OpenConnections()
        self._session = _Session()
        # Neither a proxy nor a key of the environment: the service is a neighbour.
        self._session.trust_env = False
        adapter = _Adapter(self._open)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)

    def request(
        self,
        method: str,
        url: str,
        *,
        content: object = None,
        headers: Mapping[str, str],
        timeout_s: float,
        most_bytes: int,
    ) -> Reply:
        """Send ``content`` as JSON, if there is any, and return the answer.

        Args:
            timeout_s: For all of it. Only looking up a host's name is not bounded by it.
            most_bytes: The largest body that is read.

        Raises:
            DeadlinePassed, ConnectionFailed, ReplyRefused: There is no answer.
        """
        # A compressed answer may be small on the wire and endless in memory.
        asked = {**headers, "Accept-Encoding": "identity"}
        began = time.monotonic()
        with deadline_in(timeout_s):
            try:
                with self._session.request(
                    method,
                    url,
                    json=content,
                    headers=asked,
                    timeout=(min(CONNECT_TIMEOUT_S, timeout_s), timeout_s),
                    stream=True,
                ) as response:
                    body = _body(response, most_bytes)
                    seconds = time.monotonic() - began
                    return Reply(response.status_code, response.headers, body, seconds)
            except requests.RequestException as error:
                # Libraries have several names for a time-out on the way; the clock has one.
                if time.monotonic() >= _deadline.get() or isinstance(error, requests.ReadTimeout):
                    raise DeadlinePassed(f"no whole answer within {timeout_s:g} s") from error
                raise ConnectionFailed(type(error).__name__) from error

    def close(self) -> None:
        """Cut every connection, those still being made too: requests in flight fail at once."""
        self._open.cut()
        self._session.close()


class _Session(requests.Session):
    """Follows no redirect. Even one that it is told to leave alone, it would read to its end."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return that there is none."""


class _OpenConnections:
    """Sockets that can all be cut, once and for all, from another thread."""

    def __init__(self) -> None:
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._is_cut = False
        self._lock = threading.Lock()

    def add(self, connection: socket.socket) -> None:
        with self._lock:
            self._sockets.add(connection)
            if self._is_cut:
                _shut_down(connection)

    def cut(self) -> None:
        with self._lock:
            self._is_cut = True
            for connection in self._sockets:
                _shut_down(connection)


def _shut_down(connection: socket.socket) -> None:
    with suppress(OSError):
        # The plain socket's: ending a TLS session properly would wait for its reader.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


class _Adapter(HTTPAdapter):
    """Pools connections whose sockets keep the deadline of the thread that uses them."""

    def __init__(self, connections: _OpenConnections) -> None:
        self._connections = connections
        super().__init__(pool_maxsize=128, pool_connections=16)

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        context = create_urllib3_context()
        context.sslsocket_class = _BoundedTls
        super().init_poolmanager(*args, ssl_context=context, **more)
        self.poolmanager.pool_classes_by_scheme = {
            scheme: _bounded_pool(pool, self._connections)
            for scheme, pool in self.poolmanager.pool_classes_by_scheme.items()
        }


class _Bounded:
    """Mixed into a socket: nothing waits beyond the deadline."""

    def recv_into(self: Any, *args: Any, **more: Any) -> Any:
        own_s, left_s = self.gettimeout(), _left_s()
        self.settimeout(left_s if own_s is None else min(own_s, left_s))
        return super().recv_into(*args, **more)  # type: ignore[misc]

    def sendall(self: Any, *args: Any, **more: Any) -> Any:
        # Python counts this time-out for all of the data together.
        self.settimeout(_left_s())
        return super().sendall(*args, **more)  # type: ignore[misc]


class _BoundedTcp(_Bounded, socket.socket):
    """A TCP socket."""


class _BoundedTls(_Bounded, ssl.SSLSocket):
    """A TLS socket."""


def connected(addresses: Sequence[Any], timeout_s: float) -> socket.socket:
    """Return a connection to the first of a host's addresses that takes one.

    Args:
        addresses: As ``socket.getaddrinfo`` gives them.
        timeout_s: For each, at most: all that are left share what is left of the deadline.

    Raises:
        OSError: What the last one failed with.
    """
    refused = OSError("the host has no address")
    for tried, (family, kind, protocol, _, address) in enumerate(addresses):
        with ExitStack() as unless_connected:
            try:
                tcp = unless_connected.enter_context(_BoundedTcp(family, kind, protocol))
                tcp.settimeout(min(timeout_s, _left_s() / (len(addresses) - tried)))
                tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                tcp.connect(address)
            except OSError as error:
                refused = error
            else:
                unless_connected.pop_all()
                return tcp
    raise refused


def _bounded_pool(pool: Any, connections: _OpenConnections) -> type:
    """Return the pool's class with sockets that keep the deadline and are known."""

    class Connection(pool.ConnectionCls):  # type: ignore[misc]
        def _new_conn(self) -> socket.socket:
            try:
                found = socket.getaddrinfo(
                    self._dns_host.strip("[]"), self.port, type=socket.SOCK_STREAM
                )
                return connected(found, self.timeout)
            except TimeoutError as error:
                raise ConnectTimeoutError(self, str(error)) from error
            except (OSError, UnicodeError) as error:
                raise NewConnectionError(self, str(error)) from error

        def connect(self) -> None:
            super().connect()
            connections.add(self.sock)

    return type(pool.__name__, (pool,), {"ConnectionCls": Connection})


@contextmanager
def deadline_in(seconds: float) -> Iterator[None]:
    """Have nothing that this thread does on a connection wait for longer, all of it together."""
    token = _deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


def _left_s() -> float:
    left_s = _deadline.get() - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("the deadline of the request has passed")
    return left_s


def _body(response: requests.Response, most_bytes: int) -> bytes:
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise ReplyRefused(f"the answer is compressed ({encoding}), though none was asked for")
    body = bytearray()
    for piece in response.iter_content(_PIECE):
        body += piece
        if len(body) > most_bytes:
            raise ReplyRefused(f"the answer has more than {most_bytes} bytes")
    return bytes(body)
