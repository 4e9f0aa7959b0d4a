"""Replies that drip, stall, break off or swell: an answer is whole and in time, or none."""

import contextlib
import gzip
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from rba_pipeline.resources.deadline_http import (
    ConnectionFailed,
    DeadlinePassed,
    DeadlineSession,
    Reply,
    ReplyRefused,
    connected,
    deadline_in,
)
from rba_pipeline_tests.resources.raw_server import RawServer, head, reset

NOBODY = "http://127.0.0.1:9"
TCP = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")


def ask(url: str, *, timeout_s: float = 20, most_bytes: int = 1 << 20) -> Reply:
    session = DeadlineSession()
    try:
        return session.request(
            "POST", url, content={"a": 1}, headers={}, timeout_s=timeout_s, most_bytes=most_bytes
        )
    finally:
        session.close()


@contextlib.contextmanager
def full_listener(host: str) -> Iterator[socket.socket]:
    """Somebody who answers no further connection: its queue is full."""
    with contextlib.ExitStack() as queued:
        listener = queued.enter_context(socket.create_server((host, 0), backlog=0))
        for _ in range(3):
            waiting = queued.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener


def test_an_answer_comes_with_status_headers_and_body() -> None:
    def behave(connection: socket.socket, number: int) -> None:
        connection.sendall(head(429, 7, Retry_After="3") + b'{"a":1}')

    with RawServer(behave) as server:
        reply = ask(server.url)

    assert (reply.status, reply.headers["retry-after"], reply.json()) == (429, "3", {"a": 1})


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_reply_that_drips_is_given_up_at_the_deadline_of_the_whole(part: str) -> None:
    whole = head(200, 600) + b"x" * 600
    begun = {"head": 1, "body": len(head(200, 600)) + 1}[part]

    def behave(connection: socket.socket, number: int) -> None:
        connection.sendall(whole[:begun])
        for byte in whole[begun:]:
            # A byte every fiftieth of a second: no single read waits for long.
            if server.stopping.wait(0.02):
                return
            connection.sendall(bytes([byte]))

    with RawServer(behave) as server:
        started = time.monotonic()
        with pytest.raises(DeadlinePassed, match="within 1 s"):
            ask(server.url, timeout_s=1)
        took_s = time.monotonic() - started

    assert 1 <= took_s < 4


def test_a_service_that_never_answers_is_given_up_at_the_deadline() -> None:
    with RawServer(lambda connection, number: server.stopping.wait(30) and None) as server:
        started = time.monotonic()
        with pytest.raises(DeadlinePassed):
            ask(server.url, timeout_s=1)

    assert time.monotonic() - started < 4


def broken_off(connection: socket.socket, sent: bytes, *, is_reset: bool) -> None:
    connection.sendall(sent)
    if is_reset:
        reset(connection)


@pytest.mark.parametrize(
    ("sent", "is_reset"),
    [
        pytest.param(b"", True, id="reset-before-the-head"),
        pytest.param(head(200, 99) + b"half", True, id="reset-in-the-body"),
        pytest.param(head(200, 99) + b"half", False, id="closed-in-the-body"),
        pytest.param(b"HTTP/1.1 2", False, id="half-a-head"),
        pytest.param(b"\x00\x01\r\n\r\n", False, id="no-http"),
    ],
)
def test_a_reply_that_breaks_off_is_no_answer(sent: bytes, is_reset: bool) -> None:
    behave = partial(broken_off, sent=sent, is_reset=is_reset)
    with (
        RawServer(lambda connection, number: behave(connection)) as server,
        pytest.raises(ConnectionFailed),
    ):
        ask(server.url)


def test_nobody_there_is_a_failed_connection() -> None:
    with pytest.raises(ConnectionFailed):
        ask(NOBODY)


@pytest.mark.parametrize("declared", [True, False])
def test_a_reply_that_is_too_large_is_not_read_to_its_end(declared: bool) -> None:
    sent = 0

    def behave(connection: socket.socket, number: int) -> None:
        nonlocal sent
        length = f"Content-Length: {1 << 34}\r\n" if declared else ""
        connection.sendall(f"HTTP/1.1 200 OK\r\n{length}Connection: close\r\n\r\n".encode())
        while sent < 1 << 28:
            connection.sendall(b"x" * 65536)
            sent += 65536

    with RawServer(behave) as server, pytest.raises(ReplyRefused, match="more than 1048576 bytes"):
        ask(server.url)

    assert sent < 1 << 25


def test_a_compressed_reply_is_refused_unread() -> None:
    bomb = gzip.compress(b"0" * (1 << 24))

    def behave(connection: socket.socket, number: int) -> None:
        connection.sendall(head(200, len(bomb), Content_Encoding="gzip") + bomb)

    with RawServer(behave) as server, pytest.raises(ReplyRefused, match="compressed"):
        ask(server.url)


@pytest.mark.parametrize("to", [NOBODY, "http://["])
def test_a_redirect_is_not_followed_wherever_it_leads(to: str) -> None:
    def behave(connection: socket.socket, number: int) -> None:
        connection.sendall(head(307, 0, Location=to))

    with RawServer(behave) as server:
        assert ask(server.url).status == 307


def test_nor_is_one_that_is_compressed_read() -> None:
    bomb = gzip.compress(b"0" * (1 << 24))

    def behave(connection: socket.socket, number: int) -> None:
        connection.sendall(head(302, len(bomb), Location="/", Content_Encoding="gzip") + bomb)

    with RawServer(behave) as server, pytest.raises(ReplyRefused, match="compressed"):
        ask(server.url)


def test_a_host_of_many_addresses_has_one_deadline_for_all_of_them() -> None:
    with contextlib.ExitStack() as open_sockets:
        deaf = [
            open_sockets.enter_context(full_listener(f"127.0.0.{last}")) for last in range(2, 8)
        ]
        found = [(*TCP, each.getsockname()) for each in deaf]
        started = time.monotonic()
        with deadline_in(1), pytest.raises(TimeoutError):
            connected(found, timeout_s=5)
        took_s = time.monotonic() - started

    assert 1 <= took_s < 3


@pytest.mark.parametrize("first", ["refuses", "is-silent", "is-of-no-known-family"])
def test_an_address_that_cannot_be_reached_leads_to_the_next(first: str) -> None:
    with RawServer(lambda connection, number: None) as server, full_listener("127.0.0.3") as deaf:
        port = int(server.url.rpartition(":")[2])
        away = {
            # Nobody listens there.
            "refuses": (*TCP, ("127.0.0.2", port)),
            "is-silent": (*TCP, deaf.getsockname()),
            "is-of-no-known-family": (9999, *TCP[1:], ("::1", port)),
        }[first]
        with deadline_in(4), connected([away, (*TCP, ("127.0.0.1", port))], 5) as connection:
            assert connection.getpeername() == ("127.0.0.1", port)


def test_closing_the_session_ends_requests_in_flight_at_once() -> None:
    arrived, session, failed = threading.Event(), DeadlineSession(), list[Exception]()

    def behave(connection: socket.socket, number: int) -> None:
        arrived.set()
        server.stopping.wait(30)

    def request() -> None:
        try:
            session.request("GET", server.url, headers={}, timeout_s=60, most_bytes=1)
        except ConnectionFailed as error:
            failed.append(error)

    with RawServer(behave) as server:
        thread = threading.Thread(target=request)
        thread.start()
        assert arrived.wait(30)
        closed_at = time.monotonic()
        session.close()
        thread.join(10)
        took_s = time.monotonic() - closed_at

    assert len(failed) == 1
    assert took_s < 3


def test_a_connection_made_after_closing_is_cut_as_well() -> None:
    session = DeadlineSession()
    with RawServer(lambda connection, number: server.stopping.wait(30) and None) as server:
        session.close()
        started = time.monotonic()
        with pytest.raises(ConnectionFailed):
            session.request("GET", server.url, headers={}, timeout_s=20, most_bytes=1)

    assert time.monotonic() - started < 3


def test_a_connection_is_used_again_for_the_next_request() -> None:
    def behave(connection: socket.socket, number: int) -> None:
        for _ in range(2):
            connection.sendall(head(200, 2) + b"{}")
            if not connection.recv(65536):
                return

    session = DeadlineSession()
    with RawServer(behave) as server:
        for _ in range(2):
            session.request("GET", server.url, headers={}, timeout_s=20, most_bytes=99)
        session.close()

    assert server.connections == 1


def test_a_deadline_of_one_request_does_not_reach_the_next_on_the_same_connection() -> None:
    def behave(connection: socket.socket, number: int) -> None:
        connection.sendall(head(200, 2) + b"{}")
        connection.recv(65536)
        server.stopping.wait(1.2)
        connection.sendall(head(200, 2) + b"{}")

    session = DeadlineSession()
    with RawServer(behave) as server:
        session.request("GET", server.url, headers={}, timeout_s=1, most_bytes=99)
        reply = session.request("GET", server.url, headers={}, timeout_s=20, most_bytes=99)
        session.close()

    assert reply.body == b"{}"
