"""Every way in which the service may answer, over real HTTP, and what the caller sees of it."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rba_pipeline.core.errors import (
    EmbeddingError,
    NotAllowed,
    RequestRejected,
    ServiceOverloaded,
    ServiceUnavailable,
    TextRejected,
)
from rba_pipeline.resources.embedding_client import EmbeddingClient
from rba_pipeline_tests.oracle_service import KEY, OracleService, Reply, oracle_vector
from rba_pipeline_tests.resources.unreliable_server import HangsUp

TEXTS = ["rain", "frost and hail", "wind"]
NOBODY = "http://127.0.0.1:9"


def client_of(*addresses: str, key: str = KEY, timeout_s: float = 30) -> EmbeddingClient:
    return EmbeddingClient(addresses, key=key, timeout_s=timeout_s)


@pytest.fixture
def client(oracle: OracleService) -> Iterator[EmbeddingClient]:
    made = client_of(oracle.url)
    yield made
    made.close()


def once(reply: Reply) -> Callable[[int, list[str]], Reply | None]:
    return lambda number, texts: reply if number == 0 else None


def test_vectors_come_in_the_order_of_the_texts_with_their_tokens(client: EmbeddingClient) -> None:
    answer = client.embed(TEXTS, info=client.info())

    assert answer.vectors.dtype == np.float32
    np.testing.assert_array_equal(answer.vectors, [oracle_vector(text) for text in TEXTS])
    assert answer.tokens == (1, 3, 1)
    assert answer.truncated == (False,) * 3
    assert (answer.attempts, answer.refusals) == (1, 0)


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        pytest.param(Reply.error(401, "key"), NotAllowed, "check EMBEDDING_API_KEY", id="401"),
        pytest.param(Reply.error(403, "key"), NotAllowed, "check EMBEDDING_API_KEY", id="403"),
        pytest.param(Reply.error(413, "too_large"), RequestRejected, "413 too_large", id="413"),
        pytest.param(
            Reply.error(422, "invalid"), RequestRejected, "422 invalid", id="422-as-a-whole"
        ),
        pytest.param(Reply(404, b"<html>"), RequestRejected, "is this address the", id="404"),
        pytest.param(Reply(400, b"[]"), RequestRejected, "no error body", id="400-of-a-stranger"),
    ],
)
def test_what_retrying_cannot_help_is_raised_at_once(
    client: EmbeddingClient,
    oracle: OracleService,
    reply: Reply,
    error: type[EmbeddingError],
    message: str,
) -> None:
    oracle.script = lambda number, texts: reply

    with pytest.raises(error, match=message) as raised:
        client.embed(TEXTS, info=client.info())

    assert len(oracle.sent) == 1
    assert oracle.url in str(raised.value)
    assert KEY not in str(raised.value)


def test_a_rejected_text_is_named_by_its_index(
    client: EmbeddingClient, oracle: OracleService
) -> None:
    oracle.script = once(Reply.error(422, "text_too_long", 2))

    with pytest.raises(TextRejected) as raised:
        client.embed(TEXTS, info=client.info())

    assert (raised.value.index, raised.value.reason) == (2, "text_too_long")


def test_a_wrong_key_is_refused_before_any_text_is_sent(oracle: OracleService) -> None:
    with pytest.raises(NotAllowed, match="check EMBEDDING_API_KEY"):
        client_of(oracle.url, key="another").info()


@pytest.mark.parametrize("status", [429, 503])
def test_a_full_service_is_asked_again_not_before_the_time_that_it_named(
    client: EmbeddingClient, oracle: OracleService, status: int
) -> None:
    arrivals: list[float] = []

    def script(number: int, texts: list[str]) -> Reply | None:
        arrivals.append(time.monotonic())
        return Reply.error(status, "full", Retry_After="0.7") if number == 0 else None

    oracle.script = script
    answer = client.embed(TEXTS, info=client.info())

    assert arrivals[1] - arrivals[0] >= 0.7
    assert (answer.attempts, answer.refusals) == (2, 1)


@pytest.mark.parametrize(("status", "code"), [(500, "model_failed"), (408, "too_slow")])
def test_a_failure_inside_the_service_or_on_the_way_is_retried_and_is_no_refusal(
    client: EmbeddingClient, oracle: OracleService, status: int, code: str
) -> None:
    oracle.script = once(Reply.error(status, code))

    answer = client.embed(TEXTS, info=client.info())

    np.testing.assert_array_equal(answer.vectors, [oracle_vector(text) for text in TEXTS])
    assert (answer.attempts, answer.refusals) == (2, 0)


def test_a_reset_connection_and_a_restarting_service_are_outlived(oracle: OracleService) -> None:
    info = client_of(oracle.url).info()

    with HangsUp() as dying, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client_of(dying.url).embed, TEXTS, info=info)
        assert dying.gone.wait(30)
        with OracleService(port=dying.port):
            found = answer.result(30)

    np.testing.assert_array_equal(found.vectors, [oracle_vector(text) for text in TEXTS])
    assert found.attempts >= 2


def test_a_refused_connection_is_retried_at_the_next_address(oracle: OracleService) -> None:
    client = client_of(NOBODY, oracle.url)

    answer = client.embed(TEXTS, info=client_of(oracle.url).info())

    assert answer.attempts == 2


def test_a_request_without_an_answer_is_given_up_and_sent_again(oracle: OracleService) -> None:
    release = threading.Event()
    oracle.script = lambda number, texts: release.wait(30) and None if number == 0 else None
    client = client_of(oracle.url, timeout_s=1)

    try:
        answer = client.embed(TEXTS, info=client.info())
    finally:
        release.set()

    assert answer.attempts == 2


def test_a_time_out_says_how_long_it_was_and_what_to_change(oracle: OracleService) -> None:
    release = threading.Event()
    client = client_of(oracle.url, timeout_s=1)

    def never(number: int, texts: list[str]) -> None:
        client.close()
        release.wait(30)

    oracle.script = never
    info = client.info()
    try:
        with pytest.raises(ServiceUnavailable, match=r"within 1 s .*EMBEDDING_API_TIMEOUT"):
            client.embed(TEXTS, info=info)
    finally:
        release.set()


def test_closing_the_client_ends_waits_at_once(
    client: EmbeddingClient, oracle: OracleService
) -> None:
    refused = threading.Event()

    def full(number: int, texts: list[str]) -> Reply:
        refused.set()
        return Reply.error(503, "draining", Retry_After="30")

    oracle.script = full
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.embed, TEXTS, info=client.info())
        assert refused.wait(30)
        closed_at = time.monotonic()
        client.close()
        with pytest.raises(ServiceOverloaded, match="503 draining"):
            answer.result(10)

    assert time.monotonic() - closed_at < 5
    assert len(oracle.sent) == 1
