"""Every way in which the service may answer, over real HTTP, and what the caller sees of it."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import numpy as np
import pytest

from rba_pipeline.core.embeddings import CANARY
from rba_pipeline.core.errors import (
    ContractBroken,
    EmbeddingError,
    ModelFailed,
    NotAllowed,
    RequestRejected,
    RequestTimedOut,
    RequestTooLarge,
    ServiceOverloaded,
    ServiceUnavailable,
    TextRejected,
    VectorsDrifted,
)
from rba_pipeline.resources.embedding_client import EmbeddingClient
from rba_pipeline_tests.oracle_service import KEY, OracleService, Reply, oracle_vector

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


def test_vectors_come_in_the_order_of_the_texts_with_their_tokens(
    client: EmbeddingClient, oracle: OracleService
) -> None:
    answer = client.embed(oracle.url, TEXTS, info=client.info())

    assert answer.vectors.dtype == np.float32
    np.testing.assert_array_equal(answer.vectors, [oracle_vector(text) for text in TEXTS])
    assert answer.tokens == (1, 3, 1)
    assert answer.truncated == (False,) * 3


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        pytest.param(Reply.error(401, "key"), NotAllowed, "check EMBEDDING_API_KEY", id="401"),
        pytest.param(Reply.error(403, "key"), NotAllowed, "check EMBEDDING_API_KEY", id="403"),
        pytest.param(Reply.error(413, "too_large"), RequestTooLarge, "413 too_large", id="413"),
        pytest.param(
            Reply.error(422, "invalid"), RequestRejected, "422 invalid", id="422-as-a-whole"
        ),
        pytest.param(Reply(404, b"<html>"), RequestRejected, "is this address the", id="404"),
        pytest.param(Reply(400, b"[]"), RequestRejected, "no error body", id="400-of-a-stranger"),
        pytest.param(Reply(302, b""), RequestRejected, "302", id="302"),
        pytest.param(Reply.error(429, "full"), ServiceOverloaded, "429 full", id="429"),
        pytest.param(Reply.error(500, "model"), ModelFailed, "500 model", id="500"),
        pytest.param(Reply.error(503, "draining"), ServiceUnavailable, "503 draining", id="503"),
        pytest.param(Reply(502, b"<html>"), ServiceUnavailable, "502", id="502-of-a-proxy"),
        pytest.param(Reply.error(504, "deadline"), RequestTimedOut, "504 deadline", id="504"),
        pytest.param(Reply.error(408, "too_slow"), RequestTimedOut, "408 too_slow", id="408"),
    ],
)
def test_each_answer_is_an_error_of_its_own_kind_and_is_asked_for_once(
    client: EmbeddingClient,
    oracle: OracleService,
    reply: Reply,
    error: type[EmbeddingError],
    message: str,
) -> None:
    oracle.script = lambda number, texts: reply

    with pytest.raises(error, match=message) as raised:
        client.embed(oracle.url, TEXTS, info=client.info())

    assert type(raised.value) is error
    assert len(oracle.sent) == 1
    assert oracle.url in str(raised.value)
    assert KEY not in str(raised.value)


def test_a_rejected_text_is_named_by_its_index(
    client: EmbeddingClient, oracle: OracleService
) -> None:
    oracle.script = once(Reply.error(422, "text_too_long", 2))

    with pytest.raises(TextRejected) as raised:
        client.embed(oracle.url, TEXTS, info=client.info())

    assert (raised.value.index, raised.value.reason) == (2, "text_too_long")


@pytest.mark.parametrize(
    ("said", "wait_s"),
    [
        ("2", 2.0),
        ("0.7", 0.7),
        ("-1", 0.0),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("Wed, 25 Nov 2015 07:28:00 GMT", 0.0),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_the_time_that_a_service_names_is_in_its_error(
    client: EmbeddingClient, oracle: OracleService, status: int, said: str, wait_s: float | None
) -> None:
    oracle.script = once(Reply.error(status, "full", Retry_After=said))

    with pytest.raises((ServiceOverloaded, ServiceUnavailable)) as raised:
        client.embed(oracle.url, TEXTS, info=client.info())

    assert raised.value.retry_after_s == wait_s


def test_a_proxy_may_name_a_date_to_wait_for(
    client: EmbeddingClient, oracle: OracleService
) -> None:
    then = datetime.now(UTC) + timedelta(seconds=600)
    oracle.script = once(Reply.error(503, "", Retry_After=format_datetime(then, usegmt=True)))

    with pytest.raises(ServiceUnavailable) as raised:
        client.embed(oracle.url, TEXTS, info=client.info())

    assert raised.value.retry_after_s == pytest.approx(600, abs=60)


def test_a_wrong_key_is_refused_before_any_text_is_sent(oracle: OracleService) -> None:
    with pytest.raises(NotAllowed, match="check EMBEDDING_API_KEY"):
        client_of(oracle.url, key="another").info()


def test_a_time_out_says_how_long_it_was_and_what_to_change(oracle: OracleService) -> None:
    release = threading.Event()
    oracle.script = lambda number, texts: release.wait(30) and None
    client = client_of(oracle.url, timeout_s=1)
    info = client.info()

    try:
        with pytest.raises(RequestTimedOut, match=r"within 1 s .*EMBEDDING_API_TIMEOUT"):
            client.embed(oracle.url, TEXTS, info=info)
    finally:
        release.set()


def test_an_answer_is_read_only_as_far_as_an_honest_one_goes(
    client: EmbeddingClient, oracle: OracleService
) -> None:
    oracle.script = lambda number, texts: Reply(200, b'{"data": "' + b"x" * (1 << 20) + b'"}')

    with pytest.raises(ContractBroken, match=f"{oracle.url}: the answer has more than"):
        client.embed(oracle.url, TEXTS, info=client.info())


def test_closing_the_client_ends_a_request_in_flight_and_every_later_one(
    client: EmbeddingClient, oracle: OracleService
) -> None:
    arrived, release, info = threading.Event(), threading.Event(), client.info()

    def hold(number: int, texts: list[str]) -> None:
        arrived.set()
        release.wait(30)

    oracle.script = hold
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.embed, oracle.url, TEXTS, info=info)
        assert arrived.wait(30)
        closed_at = time.monotonic()
        client.close()
        try:
            with pytest.raises(ServiceUnavailable):
                answer.result(10)
        finally:
            release.set()

    assert time.monotonic() - closed_at < 5
    with pytest.raises(ServiceUnavailable, match="the run has ended"):
        client.embed(oracle.url, TEXTS, info=info)


def test_a_query_is_tried_at_every_address(oracle: OracleService) -> None:
    client = client_of(NOBODY, oracle.url)

    vector = client.embed_query("rain", info=client.info())

    np.testing.assert_array_equal(vector, oracle_vector("rain"))


@pytest.mark.parametrize("reply", [Reply.error(503, "starting"), Reply.error(500, "model")])
def test_a_query_is_tried_three_times(oracle: OracleService, reply: Reply) -> None:
    client = client_of(oracle.url)
    oracle.script = lambda number, texts: reply if number < 2 else None

    vector = client.embed_query("rain", info=client.info())

    np.testing.assert_array_equal(vector, oracle_vector("rain"))
    oracle.script = lambda number, texts: reply
    with pytest.raises(EmbeddingError):
        client.embed_query("hail", info=client.info())
    assert oracle.sent.count(["hail"]) == 3


def test_the_canary_is_compared_with_what_is_known_and_between_addresses(
    oracle: OracleService,
) -> None:
    with OracleService() as drifted:
        drifted.canary_script = lambda: drifted.regular(["another text"])
        info = client_of(oracle.url).info()

        np.testing.assert_array_equal(
            client_of(oracle.url).canary(info, None), oracle_vector(CANARY)
        )
        with pytest.raises(VectorsDrifted, match=drifted.url):
            client_of(oracle.url, drifted.url).canary(info, None)
        with pytest.raises(VectorsDrifted, match=oracle.url):
            client_of(oracle.url).canary(info, oracle_vector("another text"))
