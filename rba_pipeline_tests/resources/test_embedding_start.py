"""What is asked before any work, of a service that is full, away or stalled just then."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rba_pipeline.core.embeddings import CANARY
from rba_pipeline.core.errors import (
    EmbeddingError,
    RequestTimedOut,
    ServiceOverloaded,
    ServiceUnavailable,
    WrongSpace,
)
from rba_pipeline.core.insistence import Insistence
from rba_pipeline.resources.embedding_client import EmbeddingClient
from rba_pipeline.resources.embedding_stream import Traffic
from rba_pipeline.resources.vector_search import Filters
from rba_pipeline.resources.vector_store import VectorStore
from rba_pipeline.search import search
from rba_pipeline_tests.oracle_service import KEY, OracleService, Reply, oracle_vector
from rba_pipeline_tests.resources.embedding_streams import (
    PATIENCE_S,
    assert_each_has_its_own_vector,
    embed_all,
    embedding,
    texts,
)
from rba_pipeline_tests.resources.raw_server import RawServer

FULL = Reply.error(429, "queue_full", Retry_After="60")
# What a client asks before any work.
Question = Callable[[EmbeddingClient, Insistence], object]
INFO: Question = EmbeddingClient.info
TOKENIZER: Question = EmbeddingClient.tokenizer


def canary_song(client: EmbeddingClient, insistence: Insistence) -> object:
    return client.canary(client.info(), None, insistence)


@pytest.fixture
def silent() -> Iterator[RawServer]:
    """Have a service that takes connections and says nothing, as a stopped process does."""
    with RawServer(lambda connection, number: server.stopping.wait(PATIENCE_S) and None) as server:
        yield server


def client_of(*addresses: str, timeout_s: float = 20) -> EmbeddingClient:
    return EmbeddingClient(addresses, key=KEY, timeout_s=timeout_s)


def refuse(oracle: OracleService, reply: Reply | None, times: int = 1 << 30) -> None:
    """Have it refuse every page, and the canary, so many times."""
    oracle.page_script = lambda path: reply if oracle.pages.count(path) <= times else None
    oracle.canary_script = lambda: reply if oracle.canaries <= times else None


@pytest.mark.parametrize("ask", [INFO, TOKENIZER], ids=["info", "tokenizer"])
def test_whoever_waits_is_told_after_three_tries_whatever_time_is_named(
    oracle: OracleService, ask: Question
) -> None:
    refuse(oracle, FULL)
    client, began_s = client_of(oracle.url), time.monotonic()

    with pytest.raises(ServiceOverloaded, match="queue_full"):
        ask(client, Insistence())

    assert oracle.asked == 3
    assert time.monotonic() - began_s < 15


def test_a_search_does_not_wait_for_a_service_that_is_full(oracle: OracleService) -> None:
    refuse(oracle, FULL)
    resource, store = embedding(oracle, 1, 1), VectorStore(database_url="none", corpus="c")

    with resource.open(), pytest.raises(ServiceOverloaded):
        search("rain", embedding=resource, vector_store=store, k=1, filters=Filters())

    assert oracle.asked == 3


@pytest.mark.parametrize("ask", [INFO, TOKENIZER, canary_song], ids=["info", "tokenizer", "canary"])
def test_a_run_asks_as_often_as_it_takes(oracle: OracleService, ask: Question) -> None:
    refuse(oracle, Reply.error(503, "starting", Retry_After="0"), times=4)
    if ask is canary_song:
        oracle.page_script = lambda path: None
    heard: list[tuple[EmbeddingError, int]] = []

    def hear(error: EmbeddingError, failed: int, waited_s: float) -> None:
        heard.append((error, failed))

    ask(client_of(oracle.url), Insistence(60, hear, jitter=lambda: 0.1))

    assert [failed for _, failed in heard] == [1, 2, 3, 4]
    assert all("503 starting" in str(error) for error, _ in heard)


def test_a_run_that_waits_ends_when_its_client_is_closed(oracle: OracleService) -> None:
    refuse(oracle, FULL)
    client, waits = client_of(oracle.url), threading.Event()
    told = Insistence(300, lambda error, failed, waited_s: waits.set())

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.info, told)
        assert waits.wait(PATIENCE_S)
        client.close()
        with pytest.raises(ServiceUnavailable, match="the run has ended"):
            asked.result(PATIENCE_S)

    assert oracle.asked == 1


def test_closing_the_client_ends_a_question_that_is_not_answered(
    oracle: OracleService, silent: RawServer
) -> None:
    client, closed = client_of(silent.url, timeout_s=20), time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.info, Insistence(300))
        threading.Timer(0.2, client.close).start()
        with pytest.raises(ServiceUnavailable):
            asked.result(PATIENCE_S)

    assert time.monotonic() - closed < 8


@pytest.mark.parametrize("reply", [FULL, Reply.error(500, "model_failed")], ids=["full", "fails"])
def test_an_address_that_sings_no_canary_is_left_out_while_another_does(
    oracle: OracleService, reply: Reply
) -> None:
    with OracleService() as refusing:
        client = client_of(refusing.url, oracle.url)
        info = client.info()
        refusing.canary_script = lambda: reply

        vector = client.canary(info, None)

    np.testing.assert_array_equal(vector, oracle_vector(CANARY))
    assert refusing.canaries == 1
    assert client.unreachable == (refusing.url,)


def test_where_nobody_sings_an_address_that_was_away_is_asked_as_well() -> None:
    with OracleService() as first, OracleService() as back:
        client = client_of(first.url, back.url)
        back.crash()
        info = client.info()
        away = client.unreachable
        back.restart()
        first.canary_script = lambda: FULL

        client.canary(info, None, Insistence(PATIENCE_S, jitter=lambda: 0.01))

        assert away == (back.url,)
        assert client.unreachable == (first.url,)


def test_an_address_that_stalls_is_given_one_short_time_and_not_asked_again(
    oracle: OracleService, silent: RawServer
) -> None:
    client, began_s = client_of(silent.url, oracle.url, timeout_s=1), time.monotonic()

    client.canary(client.info(), None)
    client.tokenizer()
    client.work()
    client.tokens_per_second()
    client.embed_query("rain", info=client.info())

    assert client.unreachable == (silent.url,)
    # For each time that somebody asked who it is.
    assert silent.connections == 2
    assert time.monotonic() - began_s < 15
    client.close()


def test_a_service_that_stalls_is_not_asked_again_for_somebody_who_waits(
    silent: RawServer,
) -> None:
    with pytest.raises(RequestTimedOut, match=r"within 1 s \(/info\): it stalls") as raised:
        client_of(silent.url, timeout_s=1).info()

    assert "batch_size" not in str(raised.value)
    assert silent.connections == 1


def test_an_address_that_joins_later_is_asked_for_its_limits_and_refuses_nothing(
    oracle: OracleService,
) -> None:
    with OracleService() as late:
        late.crash()
        late.max_texts = 3
        joins = threading.Event()

        def hold(number: int, sent: list[str]) -> Reply | None:
            # The first one works on when the other one is there.
            if number == 1:
                late.restart()
            if number > 0:
                joins.wait(PATIENCE_S)
            return None

        def take(number: int, sent: list[str]) -> Reply | None:
            return Reply.error(413, "too_large") if len(sent) > late.max_texts else None

        oracle.script, late.script = hold, take
        late.canary_script = joins.set
        resource = embedding(oracle, 8, 2, api_url=f"{oracle.url},{late.url}")
        wanted = texts(400)
        parts, traffic = embed_all(resource, wanted)
        sizes = [len(sent) for sent in late.sent]

    assert_each_has_its_own_vector(parts, wanted)
    assert "/info" in late.pages
    assert sizes
    assert max(sizes) <= 3
    assert traffic.texts_sent == 400
    assert traffic.path[-1].bounds.batch_size == 3


def test_an_address_that_joins_later_with_another_model_ends_the_run_as_at_the_start(
    oracle: OracleService,
) -> None:
    with OracleService(model="another") as late:
        late.crash()
        resource = embedding(oracle, 8, 2, api_url=f"{oracle.url},{late.url}")
        oracle.script = lambda number, sent: late.restart() if number == 0 else None
        with pytest.raises(WrongSpace, match="restarted with another model"):
            embed_all(resource, texts(20_000))

    assert late.sent == []


def test_an_address_that_comes_back_with_another_model_is_not_taken_in_again(
    oracle: OracleService,
) -> None:
    client = client_of(oracle.url)
    info = client.info()
    oracle.crash()
    oracle.model = "another"
    oracle.restart()

    with pytest.raises(WrongSpace, match="restarted with another model"):
        client.joined(oracle.url, info)

    # Who it is was enough to know.
    assert oracle.canaries == 0


def test_a_stream_that_is_done_does_not_wait_for_the_probe_of_an_address_that_stalls(
    oracle: OracleService, silent: RawServer
) -> None:
    resource = embedding(oracle, 4, 2, api_url=f"{oracle.url},{silent.url}")
    info, wanted = client_of(oracle.url).info(), texts(9)
    with resource.open() as client:
        client.unreachable = (silent.url,)
        began_s = time.monotonic()
        parts = list(
            resource.embed_stream(
                wanted,
                total=9,
                info=info,
                canary=oracle_vector(CANARY),
                traffic=(traffic := Traffic()),
                on_progress=lambda so_far: None,
            )
        )
        took_s = time.monotonic() - began_s
        again = client.embed(oracle.url, ["rain"], info=info)
    probes = [each for each in threading.enumerate() if each.name.startswith("embed")]
    for probe in probes:
        probe.join(PATIENCE_S / 2)

    assert took_s < PATIENCE_S / 2
    assert traffic.probes == silent.connections == 1
    assert_each_has_its_own_vector(parts, wanted)
    assert len(again.vectors) == 1
    # Closing the client cut it.
    assert not any(each.is_alive() for each in probes)
