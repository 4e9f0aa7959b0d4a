"""Faults of bytes: what a caller may send that is no honest request.

S12 bodies without end, heads and bodies that drip; S14 what is almost JSON; S15 keys.
"""

import contextlib
import select
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from rba_pipeline_tests.service.callers import WAIT_S, post, ready_status, stats, until
from rba_pipeline_tests.service.conftest import FAKE
from rba_pipeline_tests.service.memory import peak_bytes
from rba_pipeline_tests.service_process import ServiceProcess

MB = 2**20


@pytest.fixture(scope="module")
def usual() -> Iterator[ServiceProcess]:
    """A fake model behind the limits that a service has by default."""
    with ServiceProcess(module=FAKE) as service:
        yield service


@pytest.fixture(scope="module")
def hurried() -> Iterator[ServiceProcess]:
    """A service that waits half a second for a head, a body, and a reader."""
    with ServiceProcess({"EMBEDDING_BODY_SECONDS": "0.5"}, module=FAKE) as service:
        yield service


def head(service: ServiceProcess, *lines: str) -> bytes:
    """Return the head of a request for embeddings, with ``lines`` in it."""
    usual = [f"{name}: {value}" for name, value in service.headers.items()]
    return "\r\n".join(["POST /embeddings HTTP/1.1", "Host: x", *usual, *lines, "", ""]).encode()


def connect(service: ServiceProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), WAIT_S)


def answer(connection: socket.socket) -> bytes:
    """Return everything that comes until the other side hangs up."""
    pieces = []
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65_536):
            pieces.append(piece)
    return b"".join(pieces)


def post_bytes(service: ServiceProcess, body: Any, **headers: str) -> requests.Response:
    return requests.post(
        f"{service.url}/embeddings", data=body, headers=service.headers | headers, timeout=WAIT_S
    )


@pytest.mark.case("S12")
def test_a_body_of_fifty_megabytes_is_refused_by_its_announcement(usual: ServiceProcess) -> None:
    """Not one byte of it has been sent."""
    with connect(usual) as connection:
        connection.sendall(head(usual, f"Content-Length: {50 * MB}", "Connection: close"))

        refusal = answer(connection)

    assert refusal.startswith(b"HTTP/1.1 413 ")
    assert b'"too_large"' in refusal


@pytest.mark.case("S12")
def test_bodies_without_a_length_and_without_an_end_take_no_memory(usual: ServiceProcess) -> None:
    """Twenty callers of fifty megabytes each, in chunks; others are served meanwhile."""
    before = peak_bytes(usual.pid)

    def pour(_: int) -> bytes:
        piece = b"%x\r\n" % MB + b" " * MB + b"\r\n"
        with connect(usual) as connection:
            connection.sendall(head(usual, "Transfer-Encoding: chunked"))
            with contextlib.suppress(ConnectionError):
                for _ in range(50):
                    connection.sendall(piece)
            return answer(connection)

    with ThreadPoolExecutor(20) as threads:
        poured = [threads.submit(pour, i) for i in range(20)]
        served = post(usual, "somebody else")
        refusals = [future.result(60) for future in poured]

    said = [refusal.split(b" ")[1] for refusal in refusals if refusal]
    # Whoever sends on after the refusal may lose it to a reset.
    assert set(said) <= {b"413", b"429"}
    assert b"413" in said
    assert served.status_code == 200
    # Room for what requests may hold together, and for what the allocator keeps of it.
    assert peak_bytes(usual.pid) - before < 2 * 256 * MB
    until(lambda: stats(usual)["requests_in_flight"] == 0)


@pytest.mark.case("S12")
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"POST /embeddings HTTP/1.1\r\nHost: x\r\nX-A: ", id="head"),
        pytest.param(None, id="body"),
    ],
)
def test_whoever_drips_is_cut_off_in_time_and_others_are_served(
    hurried: ServiceProcess, sent: bytes | None
) -> None:
    """Slow-loris; each byte comes in time, all of them never would."""
    sent = sent or head(hurried, "Content-Length: 1000000")
    with ThreadPoolExecutor(30) as threads:
        dripping = [threads.submit(drip, hurried, sent) for _ in range(30)]
        served = [post(hurried, f"somebody else {i}").status_code for i in range(5)]
        ends = [future.result(WAIT_S) for future in dripping]

    assert served == [200] * 5
    assert {end.split(b" ")[1] for end in ends} == {b"408"}
    assert all(b'"too_slow"' in end for end in ends)
    assert ready_status(hurried) == 200


def drip(service: ServiceProcess, sent: bytes) -> bytes:
    """Send a byte whenever 0.05 s have brought no answer; return the answer."""
    deadline = time.monotonic() + WAIT_S
    with connect(service) as connection:
        connection.sendall(sent)
        while not select.select([connection], [], [], 0.05)[0]:
            assert time.monotonic() < deadline, "nobody cut the line"
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"a")
        return answer(connection)


@pytest.mark.case("S14")
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[" * 100_000, id="nested-lists"),
        pytest.param(b'{"input":' * 100_000, id="nested-objects"),
        pytest.param(b'{"input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="nested-input"),
        pytest.param(b'{"input": [NaN]}', id="not-a-number"),
        pytest.param(b'{"input": "a", "dimensions": Infinity}', id="infinity"),
        pytest.param(b'{"input": "a", "dimensions": 1e400}', id="beyond-float"),
        pytest.param(b'{"input": "a", "dimensions": ' + b"9" * 10_000 + b"}", id="long-number"),
        pytest.param(b'{"input": "\\ud800"}', id="lone-surrogate"),
        pytest.param(b'{"input": "a", "user": "\\udfff"}', id="lone-surrogate-elsewhere"),
        pytest.param(b'{"input": "a", "model": "\\udfff"}', id="lone-surrogate-as-model"),
        pytest.param(b'{"inp\\ud800ut": "a"}', id="lone-surrogate-in-a-name"),
        pytest.param(b'{"input": "\xff\xfe"}', id="invalid-utf-8"),
        pytest.param(b'\xef\xbb\xbf{"input": "a"}', id="byte-order-mark"),
        pytest.param('{"input": "a"}'.encode("utf-16"), id="utf-16"),
        pytest.param(b'{"input": "a", "input": "b"}', id="duplicate-keys"),
        pytest.param(b'{"input": ["a"], "truncate": true, "truncate": false}', id="duplicate-knob"),
        pytest.param(b'{"input": "a"} {"input": "b"}', id="two-objects"),
        pytest.param(b'{"input": "a",}', id="trailing-comma"),
        pytest.param(b"null", id="null"),
    ],
)
def test_what_is_almost_a_request_is_refused_and_harms_nobody(
    usual: ServiceProcess, body: bytes
) -> None:
    refusal = post_bytes(usual, body, **{"Content-Type": "application/json"})

    assert refusal.status_code == 422
    assert refusal.json()["error"]["code"] in ("bad_request", "text_invalid")
    assert post(usual, "next").status_code == 200


@pytest.mark.case("S15")
@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Authorization": "Bearer wrong"}, id="wrong"),
        pytest.param({"Authorization": "Bearer "}, id="empty"),
        pytest.param({"Authorization": b"Bearer schl\xc3\xbcssel"}, id="not-ascii"),
        pytest.param({"X-Api-Key": "a-key-for-tests"}, id="another-header"),
        pytest.param({"Cookie": "Authorization=Bearer a-key-for-tests"}, id="cookie"),
        pytest.param({"Proxy-Authorization": "Bearer a-key-for-tests"}, id="for-a-proxy"),
        pytest.param({"Authorization": "Bearer a-key-for-test"}, id="too-short"),
        pytest.param({"Authorization": "Bearer a-key-for-tests2"}, id="too-long"),
    ],
)
def test_all_wrong_keys_get_the_same_answer(
    usual: ServiceProcess, headers: dict[str, str | bytes]
) -> None:
    """That keys are compared in constant time is shown in ``test_security``."""
    url = f"{usual.url}/embeddings"

    nothing, wrong = (
        requests.post(url, json={"input": "a"}, headers=shown, timeout=WAIT_S)
        for shown in ({}, headers)
    )

    assert (wrong.status_code, wrong.json()) == (401, nothing.json())
    assert usual.key not in wrong.text
    assert usual.key not in usual.log


@pytest.mark.case("S15")
@pytest.mark.parametrize("key", [pytest.param("", id="empty"), pytest.param("a,,b", id="item")])
def test_an_empty_key_refuses_to_start(key: str) -> None:
    with pytest.raises(RuntimeError, match=r"ended with 2(.|\n)*EMBEDDING_API_KEY=\(not shown\)"):
        ServiceProcess({"EMBEDDING_API_KEY": key}, module=FAKE).start()
