"""One connection against callers who are slow, silent, too many or not HTTP; over real sockets."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from embedding_service.connections import (
    TOLD_THAT_THERE_IS_NO_ROOM,
    Connection,
    ConnectionLimits,
)

WAIT_S = 20
SOON_S = 0.2
HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"
LARGE = 32 * 2**20


@dataclass
class Server:
    """A server of our connections around an application that answers everything alike."""

    body: bytes = b"served"
    patience_s: float = WAIT_S
    max_connections: int = 10
    reads_body: bool = True
    in_one_piece: bool = False
    refused: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    sent: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun.set()
        body = b""
        while self.reads_body and (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                self.bodies.append(body)
                break
        length = str(len(self.body)).encode()
        start = {"status": 200, "headers": [(b"content-length", length)]}
        await send({"type": "http.response.start", **start})
        more = not self.in_one_piece
        await send({"type": "http.response.body", "body": self.body, "more_body": more})
        if more:
            await send({"type": "http.response.body", "body": b""})
        self.sent.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Server"]:
        limits = ConnectionLimits(self.max_connections, self.patience_s, self.refused.append)
        state = ServerState()
        config = Config(self.app, interface="asgi3", ws="none", log_config=None)
        connection = partial(Connection, config, state, {}, limits=limits)
        server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for open_one in list(state.connections):
                open_one.transport.abort()

    async def ask(self, *pieces: bytes) -> bytes:
        """Return everything that comes back on a new connection until it is closed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for piece in pieces:
            writer.write(piece)
        try:
            async with asyncio.timeout(WAIT_S):
                return await reader.read()
        finally:
            writer.close()


def run(server: Server, scenario: Callable[[Server], Awaitable[Any]]) -> Any:
    async def within() -> Any:
        async with server.running():
            return await scenario(server)

    return asyncio.run(within())


def told(answer: bytes) -> tuple[int, str]:
    """Return status and code of a refusal; its head must be complete and its body JSON."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"x-request-id: " in head
    assert b"connection: close" in head
    assert b"content-length: %d" % len(body) in head
    return int(head.split()[1]), json.loads(body)["error"]["code"]


@pytest.mark.case("S12")
@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        pytest.param(HEAD, 408, "too_slow", id="half-a-head"),
        pytest.param(b"\r\n", 408, "too_slow", id="an-empty-line"),
        pytest.param(b"no HTTP at all\r\n\r\n", 400, "bad_request", id="not-http"),
        pytest.param(HEAD + b"X: " + b"y" * 70_000, 431, "head_too_large", id="a-long-header"),
        pytest.param(HEAD + b"A: b\r\n" * 12_000, 431, "head_too_large", id="many-headers"),
    ],
)
def test_what_never_becomes_a_request_is_answered_in_our_shape_and_hung_up_on(
    sent: bytes, status: int, code: str
) -> None:
    server = Server(patience_s=SOON_S)

    answer = run(server, lambda s: s.ask(sent))

    assert told(answer) == (status, code)
    assert server.refused == [code]


def test_a_caller_who_says_nothing_is_hung_up_on_without_an_answer() -> None:
    assert run(Server(patience_s=SOON_S), lambda s: s.ask()) == b""


def test_the_next_request_on_a_connection_has_its_time_as_well() -> None:
    answer = run(Server(patience_s=SOON_S), lambda s: s.ask(HEAD + b"\r\n", HEAD))

    served, _, rest = answer.partition(b"served")
    assert served.startswith(b"HTTP/1.1 200")
    assert told(rest) == (408, "too_slow")


def test_one_connection_too_many_is_told_to_come_back() -> None:
    async def scenario(server: Server) -> list[bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n")
        await writer.drain()
        refused = await server.ask(HEAD + b"Connection: close\r\n\r\n")
        writer.write(b"end")
        served = await reader.readuntil(b"served")
        writer.close()
        return [refused, served]

    refused, served = run(Server(max_connections=1), scenario)

    assert told(refused) == (503, "too_many_connections")
    assert b"retry-after: " in refused
    assert served.endswith(b"served")


def test_of_far_too_many_connections_the_last_are_closed_unanswered() -> None:
    async def scenario(server: Server) -> list[bytes]:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n"
        lines = []
        for _ in range(server.max_connections + TOLD_THAT_THERE_IS_NO_ROOM + 1):
            lines.append(await asyncio.open_connection("127.0.0.1", server.port))
            lines[-1][1].write(head)
        async with asyncio.timeout(WAIT_S):
            found = [await reader.read() for reader, _ in lines[server.max_connections :]]
        for _, writer in lines:
            writer.close()
        return found

    server = Server(max_connections=3)
    *answered, last = run(server, scenario)

    assert {told(answer) for answer in answered} == {(503, "too_many_connections")}
    assert last == b""
    assert server.refused == len([*answered, last]) * ["too_many_connections"]


OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
INNER = HEAD + b"\r\n"


@pytest.mark.case("S12")
@pytest.mark.parametrize("split", [True, False], ids=["body apart", "in one piece"])
def test_a_request_that_offers_another_protocol_is_served_with_its_body(split: bool) -> None:
    """As Java's client sends it. The body, if lost, would be the next request."""
    post = b"POST / HTTP/1.1\r\nHost: x\r\n" + OFFER + b"Content-Length: %d\r\n\r\n" % len(INNER)
    last = HEAD + OFFER.replace(b"Upgrade,", b"Upgrade, close,") + b"\r\n"

    async def scenario(server: Server) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        if split:
            writer.write(post)
            async with asyncio.timeout(WAIT_S):
                await server.begun.wait()
            writer.write(INNER)
        else:
            writer.write(post + INNER)
        async with asyncio.timeout(WAIT_S):
            first = await reader.readuntil(b"served")
            writer.write(last)
            rest = await reader.read()
        writer.close()
        return first + rest

    server = Server()
    answers = run(server, scenario)

    assert answers.count(b"HTTP/1.1 200") == answers.count(b"served") == 2
    assert server.bodies == [INNER, b""]
    assert server.refused == []


def test_a_tunnel_is_refused() -> None:
    server = Server()

    answer = run(server, lambda s: s.ask(b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n"))

    assert told(answer) == (400, "bad_request")
    assert server.refused == ["bad_request"]


def test_whoever_has_been_silent_for_longest_makes_room_for_another() -> None:
    async def answered(server: Server) -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(HEAD + b"\r\n")
        await reader.readuntil(b"served")
        kept.append(writer)
        return reader

    async def scenario(server: Server) -> tuple[bytes, bytes, bool]:
        first, second = await answered(server), await answered(server)
        served = await server.ask(HEAD + b"Connection: close\r\n\r\n")
        async with asyncio.timeout(WAIT_S):
            rest = await first.read()
        return served, rest, second.at_eof()

    kept: list[asyncio.StreamWriter] = []
    served, rest, second_ended = run(Server(max_connections=2), scenario)

    assert served.startswith(b"HTTP/1.1 200")
    assert (rest, second_ended) == (b"", False)


def test_an_answer_before_the_end_of_the_body_is_readable_and_the_rest_is_not_awaited() -> None:
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nand no more"

    answer = run(Server(patience_s=SOON_S, reads_body=False), lambda s: s.ask(post))

    assert answer.endswith(b"served")


def test_a_body_that_ends_after_its_answer_leaves_the_connection_usable() -> None:
    async def scenario(server: Server) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab")
        await reader.readuntil(b"served")
        writer.write(b"cd" + HEAD + b"\r\n")
        second = await reader.readuntil(b"served")
        writer.close()
        return second

    assert run(Server(reads_body=False), scenario).startswith(b"HTTP/1.1 200")


def test_a_reader_who_does_not_take_the_answer_is_hung_up_on() -> None:
    async def scenario(server: Server) -> int:
        loop = asyncio.get_running_loop()
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.setblocking(False)
            await loop.sock_connect(slow, ("127.0.0.1", server.port))
            await loop.sock_sendall(slow, HEAD + b"\r\n")
            await asyncio.wait_for(server.sent.wait(), WAIT_S)
            return await _rest_of(slow)

    assert run(Server(body=bytes(LARGE), patience_s=SOON_S), scenario) < LARGE


async def _rest_of(connection: socket.socket) -> int:
    """Return how many bytes can still be read before the connection ends, however it ends."""
    read = 0
    try:
        while piece := await asyncio.get_running_loop().sock_recv(connection, 2**20):
            read += len(piece)
    except ConnectionResetError:
        pass
    return read


def test_a_reader_who_takes_the_answer_gets_all_of_it() -> None:
    answer = run(Server(body=bytes(LARGE)), lambda s: s.ask(HEAD + b"Connection: close\r\n\r\n"))

    assert answer.endswith(bytes(LARGE))


def test_the_time_to_take_an_answer_ends_with_it_even_when_another_request_has_come() -> None:
    patience_s = 1.0
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"

    async def scenario(server: Server) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(HEAD + b"\r\n" + post)
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(LARGE)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 1.5 * patience_s)
        writer.write(b"x")
        second = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        return second

    server = Server(body=bytes(LARGE), patience_s=patience_s, in_one_piece=True)

    assert run(server, scenario).startswith(b"HTTP/1.1 200")
