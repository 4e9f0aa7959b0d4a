"""The stream of vectors when requests fail or its reader leaves: nothing is lost or left over."""

import threading
import time

import dagster as dg
import pytest

from rba_pipeline.core.embeddings import CANARY, Part
from rba_pipeline.core.errors import NotAllowed, RequestRejected, ServiceUnavailable, TextRejected
from rba_pipeline.resources.embedding import Embedding
from rba_pipeline.resources.embedding_stream import Traffic
from rba_pipeline_tests.oracle_service import OracleService, Reply
from rba_pipeline_tests.resources.embedding_streams import (
    PATIENCE_S,
    assert_each_has_its_own_vector,
    embed_all,
    embedding,
    hashes,
    no_workers_left,
    stream,
    texts,
)
from rba_pipeline_tests.resources.sample_records import sha256


def test_after_a_failure_the_answers_in_flight_are_handed_over_before_it_is_raised(
    oracle: OracleService,
) -> None:
    all_three_are_in_flight = threading.Barrier(3)

    def script(number: int, sent: list[str]) -> Reply | None:
        if number < 3:
            all_three_are_in_flight.wait(PATIENCE_S)
        return Reply.error(400, "no_such_thing") if number == 0 else None

    oracle.script = script
    resource, parts = embedding(oracle, 2, 3), list[Part]()
    with resource.open(), pytest.raises(RequestRejected, match="no_such_thing"):
        # What was yielded before the error stays in the list.
        parts.extend(stream(resource, texts(60)))

    answered = [text for sent in oracle.sent[1:] for text in sent]
    assert sorted(hashes(parts)) == sorted(map(sha256, answered))
    # How many were sent before the failure was seen is the machine's doing; not all were.
    assert 3 <= len(oracle.sent) < 30
    assert no_workers_left()


def test_a_refused_key_ends_the_run_at_once_beside_an_address_that_stalls(
    oracle: OracleService,
) -> None:
    stalls, refused, release = threading.Event(), threading.Event(), threading.Event()

    def stall(number: int, sent: list[str]) -> Reply | None:
        if number > 0:
            stalls.set()
        # The first one is answered after all, the second one is not.
        (release if number > 0 else refused).wait(PATIENCE_S)
        return None

    def refuse(number: int, sent: list[str]) -> Reply | None:
        stalls.wait(PATIENCE_S)
        refused.set()
        return Reply.error(401, "not_allowed")

    oracle.script = stall
    parts, traffic = list[Part](), Traffic()
    with OracleService() as refusing:
        refusing.script = refuse
        resource = embedding(
            oracle, 2, 4, api_url=f"{oracle.url},{refusing.url}", timeout_s=10 * PATIENCE_S
        )
        began_s = time.monotonic()
        try:
            with resource.open(), pytest.raises(NotAllowed, match="EMBEDDING_API_KEY"):
                # What was yielded before the error stays in the list.
                parts.extend(stream(resource, texts(60), traffic))
            took_s = time.monotonic() - began_s
        finally:
            release.set()
        sent = len(oracle.sent) + len(refusing.sent)

    assert took_s < PATIENCE_S / 2
    # One more goes out if the first is answered before the key is refused.
    assert 4 <= sent <= traffic.requests <= 5
    assert hashes(parts) == list(map(sha256, oracle.sent[0]))
    assert no_workers_left()


def test_texts_that_the_service_rejects_are_reported_and_the_others_embedded(
    oracle: OracleService,
) -> None:
    wanted = texts(9)
    bad = {wanted[2].text, wanted[6].text, wanted[7].text}

    def reject(number: int, sent: list[str]) -> Reply | None:
        found = [place for place, text in enumerate(sent) if text in bad]
        return Reply.error(422, "text_invalid", found[0]) if found else None

    oracle.script = reject
    parts, traffic = embed_all(embedding(oracle, 4, 2), wanted)

    rejections = traffic.rejections
    assert {rejection.text_hash for rejection in rejections} == set(map(sha256, bad))
    assert {(each.reason, each.attempts) for each in rejections} == {("text_invalid", 1)}
    assert_each_has_its_own_vector(parts, [text for text in wanted if text.text not in bad])


def test_a_batch_of_nothing_but_rejected_texts_is_no_vector(oracle: OracleService) -> None:
    oracle.script = lambda number, sent: (
        None if CANARY in sent[0] else Reply.error(422, "text_invalid", 0)
    )

    parts, traffic = embed_all(embedding(oracle, 3, 1), texts(3))

    assert hashes(parts) == []
    assert len(traffic.rejections) == 3
    assert (traffic.texts, traffic.requests, traffic.probes) == (0, 3, 1)


def test_a_rejected_index_outside_the_request_ends_the_run(oracle: OracleService) -> None:
    oracle.script = lambda number, sent: Reply.error(422, "text_invalid", len(sent))

    with pytest.raises(TextRejected):
        embed_all(embedding(oracle, 3, 1), texts(3))

    assert len(oracle.sent) == 1


def test_a_stream_that_is_closed_early_leaves_no_thread(oracle: OracleService) -> None:
    resource = embedding(oracle, 1, 4)

    with resource.open():
        parts = stream(resource, texts(50))
        next(parts)
        parts.close()

        assert no_workers_left()


def test_closing_a_stream_cuts_what_is_in_flight(oracle: OracleService) -> None:
    release = threading.Event()
    oracle.script = lambda number, sent: None if number < 2 else release.wait(PATIENCE_S) and None
    resource = embedding(oracle, 1, 2)

    try:
        with resource.open():
            parts = stream(resource, texts(9))
            next(parts)
            started = time.monotonic()
            parts.close()
            took_s = time.monotonic() - started
    finally:
        release.set()

    assert took_s < 3
    assert no_workers_left()


def test_a_run_that_fails_closes_its_connections(oracle: OracleService) -> None:
    held = []

    @dg.asset
    def failing(embedding: Embedding) -> None:
        held.append(embedding.client)
        raise dg.Failure("on purpose", allow_retries=False)

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [failing],
            resources={"embedding": embedding(oracle, 1, 1)},
            instance=instance,
            raise_on_error=False,
        )

    assert not result.success
    with pytest.raises(ServiceUnavailable, match="the run has ended"):
        held[0].info()
    assert oracle.sent == []
