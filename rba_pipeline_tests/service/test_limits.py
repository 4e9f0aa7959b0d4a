"""What requests may hold and how long they may take, asked over raw sockets of a real process."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from rba_pipeline_tests.service.callers import ready_status, until
from rba_pipeline_tests.service.conftest import FAKE
from rba_pipeline_tests.service_process import ServiceProcess

WAIT_S = 20
MIB = 2**20


@pytest.fixture(scope="module")
def small_service() -> Iterator[ServiceProcess]:
    """Room for 8 MiB in all and 2 MiB in one body."""
    env = {
        "EMBEDDING_MAX_REQUEST_MEMORY": "8MiB",
        "EMBEDDING_MAX_BODY_BYTES": str(2 * MIB),
    }
    with ServiceProcess(env, module=FAKE) as service:
        yield service


@pytest.fixture(scope="module")
def default_service() -> Iterator[ServiceProcess]:
    """The limits of a service that nothing was set for; the model takes 1,024 tokens."""
    with ServiceProcess({"FAKE_MAX_TOKENS": "1024"}, module=FAKE) as service:
        yield service


def embedded(
    service: ServiceProcess, texts: list[str], input_type: str = "document"
) -> requests.Response:
    return requests.post(
        f"{service.url}/embeddings",
        json={"input": texts, "input_type": input_type},
        headers=service.headers,
        timeout=WAIT_S,
    )


def begun(service: ServiceProcess, body: bytes, *, announced: int) -> socket.socket:
    """Return a connection on which head and ``body`` have been sent, and no more."""
    connection = socket.create_connection(("127.0.0.1", service.port), WAIT_S)
    connection.sendall(
        f"POST /embeddings HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.key}\r\n"
        f"Content-Length: {announced}\r\n\r\n".encode()
    )
    connection.sendall(body)
    return connection


def answer_on(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Return status, headers and body of the next answer."""
    with connection.makefile("rb") as lines:
        status = int(lines.readline().split()[1])
        pairs = (line.decode().split(": ", 1) for line in iter(lines.readline, b"\r\n"))
        headers = {name.lower(): value.strip() for name, value in pairs}
        return status, headers, json.loads(lines.read(int(headers["content-length"])))


def held_bytes(service: ServiceProcess) -> float:
    page = requests.get(f"{service.url}/metrics", headers=service.headers, timeout=WAIT_S).text
    families = {family.name: family for family in text_string_to_metric_families(page)}
    return families["embedding_request_memory_bytes"].samples[0].value


def until_held(service: ServiceProcess, expected: float) -> None:
    """Ask until it is so; each question is a round trip, and the test has a time-out."""
    while held_bytes(service) != expected:
        pass


def test_2048_chunks_of_600_tokens_fit_one_request(default_service: ServiceProcess) -> None:
    # With the prompt, one word, and two special tokens.
    texts = ["rates " * 597] * 2048

    answer = embedded(default_service, texts)

    assert answer.status_code == 200, answer.text
    assert [item["tokens"] for item in answer.json()["data"]] == [600] * 2048


def test_a_client_that_splits_queries_as_info_says_is_not_refused(
    default_service: ServiceProcess,
) -> None:
    info = requests.get(
        f"{default_service.url}/info", headers=default_service.headers, timeout=WAIT_S
    )
    most, longest = (
        info.json()["limits"][name] for name in ("max_query_queue_tokens", "max_tokens_per_text")
    )
    texts = ["rates " * (longest - 3)] * (most // longest)

    assert embedded(default_service, texts, "query").status_code == 200
    assert embedded(default_service, [*texts, "rates"], "query").status_code == 413


@pytest.mark.case("S12")
def test_a_body_that_announces_too_much_is_refused_before_it_is_sent(
    small_service: ServiceProcess,
) -> None:
    with begun(small_service, b"", announced=10**15) as connection:
        status, _, body = answer_on(connection)

    assert (status, body["error"]["code"]) == (413, "too_large")


def test_a_callers_deadline_ends_the_wait_for_its_body(small_service: ServiceProcess) -> None:
    with socket.create_connection(("127.0.0.1", small_service.port), WAIT_S) as connection:
        connection.sendall(
            b"POST /embeddings HTTP/1.1\r\nHost: x\r\nX-Request-Timeout-Ms: 50\r\n"
            b"Content-Length: 10\r\nAuthorization: Bearer " + small_service.key.encode()
            + b"\r\n\r\n{"
        )  # fmt: skip
        status, _, body = answer_on(connection)

    assert (status, body["error"]["code"]) == (504, "deadline_passed")


def test_large_bodies_share_one_budget_that_leaves_room_for_a_search(
    small_service: ServiceProcess,
) -> None:
    size = 2 * MIB - 1
    with ExitStack() as callers:
        sent = [size - 1] * 3 + [MIB]
        for n_bytes in sent:
            callers.enter_context(begun(small_service, b"x" * n_bytes, announced=size))
        until_held(small_service, sum(sent))

        with begun(small_service, b"x" * 1000, announced=size) as connection:
            status, headers, body = answer_on(connection)
        search = requests.post(
            f"{small_service.url}/embeddings",
            json={"input": "a search"},
            headers=small_service.headers,
            timeout=WAIT_S,
        )

    assert (status, body["error"]["code"]) == (429, "memory_full")
    assert int(headers["retry-after"]) >= 1
    assert search.status_code == 200
    until_held(small_service, 0)


@pytest.mark.case("S11")
@pytest.mark.parametrize(
    ("drain_s", "signals"),
    [pytest.param("0", 1, id="after-draining"), pytest.param("60", 2, id="at-the-second-signal")],
)
def test_stopping_answers_who_is_still_sending(drain_s: str, signals: int) -> None:
    with ServiceProcess({"EMBEDDING_DRAIN_SECONDS": drain_s}, module=FAKE) as service:
        with begun(service, b"half", announced=8) as connection:
            until_held(service, 4)
            service.terminate()
            if signals == 2:
                # Two at once may become one.
                until(lambda: ready_status(service) == 503)
                service.terminate()
            status, headers, body = answer_on(connection)
        code = service.wait()
        log = service.log

    assert (status, body["error"]["code"]) == (503, "draining")
    assert int(headers["retry-after"]) >= 1
    assert code == 0
    assert "Traceback" not in log


def test_an_answer_counts_as_well(small_service: ServiceProcess) -> None:
    texts = {"input": ["a"] * 2048, "dimensions": 8}

    answers = [
        requests.post(
            f"{small_service.url}/embeddings",
            json=texts,
            headers=small_service.headers,
            timeout=WAIT_S,
        )
        for _ in range(8)
    ]

    assert {answer.status_code for answer in answers} == {200}
    until_held(small_service, 0)


def test_a_body_of_the_largest_size_that_explodes_when_parsed_is_refused(
    small_service: ServiceProcess,
) -> None:
    answer = requests.post(
        f"{small_service.url}/embeddings",
        data=b"[" + b"[]," * 600_000 + b"[]]",
        headers=small_service.headers,
        timeout=WAIT_S,
    )

    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
