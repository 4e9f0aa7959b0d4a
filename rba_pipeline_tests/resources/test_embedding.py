"""The stream of vectors: all texts, once, within the bounds, handed over in time."""

import json
import threading
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rba_pipeline.core.presets import Bounds
from rba_pipeline.resources.embedding_stream import Traffic
from rba_pipeline_tests.oracle_service import OracleService, Reply
from rba_pipeline_tests.resources.embedding_streams import (
    PATIENCE_S,
    assert_each_has_its_own_vector,
    embed_all,
    embedding,
    stream,
    texts,
)
from rba_pipeline_tests.resources.sample_records import sha256


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 70), st.integers(1, 9), st.integers(1, 4))
def test_every_text_is_sent_once_and_has_its_own_vector(
    count: int, batch: int, parallel: int
) -> None:
    wanted = texts(count)
    with OracleService() as oracle:
        parts, traffic = embed_all(embedding(oracle, batch, parallel), wanted)

        assert_each_has_its_own_vector(parts, wanted)
        assert Counter(oracle.texts_sent) == {text.text: 1 for text in wanted}
        assert traffic.texts == count
        assert traffic.requests == len(oracle.sent)


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        pytest.param(0, [], id="none"),
        pytest.param(1, [1], id="one"),
        pytest.param(4, [4], id="exactly-one-request"),
        pytest.param(5, [4, 1], id="one-over"),
        pytest.param(12, [4, 4, 4], id="exact-multiple"),
        pytest.param(260, [4] * 65, id="more-than-the-look-ahead"),
    ],
)
def test_requests_hold_batch_size_texts_each_the_last_what_is_left(
    oracle: OracleService, count: int, sizes: list[int]
) -> None:
    embed_all(embedding(oracle, 4, 1), texts(count))

    assert [len(sent) for sent in oracle.sent] == sizes


def test_exactly_parallel_batches_requests_are_in_flight(oracle: OracleService) -> None:
    everyone_is_here = threading.Barrier(3)

    def meet(number: int, sent: list[str]) -> None:
        # Only when three requests are open at once does any of the first three go on.
        if number < 3:
            everyone_is_here.wait(PATIENCE_S)

    oracle.script = meet
    embed_all(embedding(oracle, 2, 3), texts(40))

    assert oracle.peak_in_flight == 3


@pytest.mark.parametrize(("batch", "parallel"), [(1, 1), (3, 2), (2, 4)])
def test_texts_sent_and_not_yet_kept_stay_within_two_rounds_of_requests(
    oracle: OracleService, batch: int, parallel: int
) -> None:
    kept, unkept = 0, list[int]()
    first_part_is_kept = threading.Event()

    def script(number: int, sent: list[str]) -> None:
        unkept.append(len(oracle.texts_sent) - kept)
        if number == 1 and parallel > 1:
            # The slowest request of all: the others run ahead as far as they may.
            first_part_is_kept.wait(PATIENCE_S)

    oracle.script = script
    resource = embedding(oracle, batch, parallel)
    with resource.open():
        for part in stream(resource, texts(60)):
            kept += len(part.text_hashes)
            first_part_is_kept.set()

    assert kept == 60
    assert max(unkept) <= 2 * batch * parallel


def test_while_the_caller_keeps_a_part_no_further_request_is_sent(oracle: OracleService) -> None:
    answered = threading.Semaphore(0)

    def count(number: int, sent: list[str]) -> None:
        answered.release()

    oracle.script = count
    resource = embedding(oracle, 2, 2)
    with resource.open():
        parts = stream(resource, texts(40))
        part = next(parts)
        # Two answers make a part due, and a third may come with the second; whatever was sent
        # before it was handed over stays within twice two requests.
        arrived = 0
        while answered.acquire(timeout=0.3):
            arrived += 1
        parts.close()

    assert len(part.text_hashes) in (4, 6)
    assert len(part.text_hashes) // 2 <= arrived <= 4


def test_answers_do_not_wait_for_a_request_that_is_stuck(oracle: OracleService) -> None:
    release = threading.Event()
    oracle.script = lambda number, sent: None if number else release.wait(PATIENCE_S) and None
    resource = embedding(oracle, 2, 2)

    with resource.open():
        parts = stream(resource, texts(10))
        try:
            early = next(parts)
            stuck = set(oracle.sent[0])
        finally:
            release.set()
        rest = list(parts)

    assert len(early.text_hashes) == 4
    assert not {sha256(text) for text in stuck} & set(early.text_hashes)
    assert_each_has_its_own_vector([early, *rest], texts(10))


def test_a_part_is_handed_over_within_two_seconds_though_answers_are_few(
    oracle: OracleService,
) -> None:
    release, answered_at = threading.Event(), list[float]()

    def one_answers(number: int, sent: list[str]) -> None:
        if number == 0:
            answered_at.append(time.monotonic())
        else:
            release.wait(PATIENCE_S)

    oracle.script = one_answers
    resource = embedding(oracle, 2, 4)
    with resource.open():
        parts = stream(resource, texts(8))
        try:
            early = next(parts)
            waited_s = time.monotonic() - answered_at[0]
        finally:
            release.set()
        rest = list(parts)

    assert len(early.text_hashes) == 2
    assert waited_s < 4
    assert_each_has_its_own_vector([early, *rest], texts(8))


@pytest.mark.parametrize(
    ("adaptive", "sizes"),
    [
        pytest.param(True, [8, 8, 4, 4, 4, 4, 4], id="adaptive-halves"),
        pytest.param(False, [8, 8, 8, 8, 4], id="fixed-stays"),
    ],
)
def test_a_refusal_makes_only_an_adaptive_run_lean_less(
    oracle: OracleService, adaptive: bool, sizes: list[int]
) -> None:
    def full_once(number: int, sent: list[str]) -> Reply | None:
        return Reply.error(429, "queue_full", Retry_After="0") if number == 0 else None

    oracle.script = full_once
    _, traffic = embed_all(embedding(oracle, 8, 1, adaptive=adaptive), texts(28))

    assert [len(sent) for sent in oracle.sent] == sizes
    assert (traffic.refusals, traffic.requests, traffic.texts) == (1, len(sizes), 28)


def test_the_path_of_the_pace_begins_at_zero_and_says_why_it_changed(oracle: OracleService) -> None:
    oracle.script = lambda number, sent: (
        Reply.error(429, "queue_full", Retry_After="0") if number == 0 else None
    )
    _, traffic = embed_all(embedding(oracle, 8, 2, adaptive=True), texts(28))

    assert [(step.bounds, step.why) for step in traffic.path] == [
        (Bounds(8, 2), "start"), (Bounds(8, 1), "refused"),
    ]  # fmt: skip
    assert traffic.path[0].at_s < traffic.path[1].at_s < traffic.seconds


def test_a_text_that_was_cut_is_reported(oracle: OracleService) -> None:
    wanted = texts(5)

    def cut_the_third(number: int, sent: list[str]) -> Reply:
        body = json.loads(oracle.regular(sent).body)
        for item, text in zip(body["data"], sent, strict=True):
            item["truncated"] = text == wanted[2].text
        return Reply(200, json.dumps(body).encode())

    oracle.script = cut_the_third
    parts, _ = embed_all(embedding(oracle, 2, 2, truncate=True), wanted)

    assert set().union(*(part.truncated for part in parts)) == {wanted[2].text_hash}
    assert_each_has_its_own_vector(parts, wanted)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        pytest.param(None, "no answer yet", id="no-answer"),
        pytest.param(Reply.error(429, "queue_full", Retry_After="0.4"), "full", id="full"),
        pytest.param(Reply.error(503, "draining"), "left out until it is well", id="away"),
    ],
)
def test_who_asked_to_be_called_again_is_called_though_nothing_is_answered(
    oracle: OracleService, reply: Reply | None, why: str
) -> None:
    told = threading.Event()
    heard: list[tuple[int, dict[str, str]]] = []

    def script(number: int, sent: list[str]) -> Reply | None:
        if number > 0 or reply is not None:
            return reply if number == 0 else None
        told.wait(PATIENCE_S)
        return None

    def on_progress(so_far: Traffic) -> float:
        heard.append((so_far.done, dict(so_far.waiting_for)))
        if (0, {oracle.url: why}) in heard:
            told.set()
        return 0.05

    oracle.script = script
    resource = embedding(oracle, 2, 1)
    with resource.open():
        parts = list(stream(resource, texts(8), on_progress=on_progress))

    assert_each_has_its_own_vector(parts, texts(8))
    assert heard[0] == (0, {})
    assert (0, {oracle.url: why}) in heard
    assert heard[-1][0] == 8
