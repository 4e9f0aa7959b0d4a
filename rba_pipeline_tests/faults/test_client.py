"""The service misbehaves, and the pipeline comes out right: the C cases, as runs of a partition."""

import base64
import json
import random
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import dagster as dg
import numpy as np
import pytest

from rba_pipeline.assets.vectors import vectors_asset
from rba_pipeline.definitions import build_resources
from rba_pipeline.materialise import PartitionResult
from rba_pipeline.partitions import partitions_by
from rba_pipeline.second_chances import retry
from rba_pipeline_tests.faults.conftest import (
    AT_EITHER_PACE,
    BATCH,
    PARALLEL,
    PARTITION,
    add_documents,
)
from rba_pipeline_tests.faults.invariants import (
    check_failure,
    check_invariants,
    check_nothing_is_held,
)
from rba_pipeline_tests.installation import Installation, failures
from rba_pipeline_tests.oracle_service import OracleService, Reply
from rba_pipeline_tests.resources.sample_records import sha256

pytestmark = pytest.mark.postgres

LONG = pytest.mark.long
# What a kill may cost: two rounds of requests.
IN_FLIGHT = 2 * BATCH * PARALLEL


def run(project: Installation) -> list[PartitionResult]:
    return project.run(PARTITION)


def figure(results: list[PartitionResult], name: str) -> Any:
    return results[0].metadata["embeddings"][name]


def after(delay_s: float, then: Callable[[], None]) -> threading.Timer:
    """Let the supervisor do something a little later."""
    timer = threading.Timer(delay_s, then)
    timer.start()
    return timer


@pytest.mark.case("C1")
@AT_EITHER_PACE
def test_a_service_that_is_killed_in_a_batch_and_restarted_costs_only_that_batch(
    project: Installation, oracle: OracleService
) -> None:
    timers = []

    def crash(number: int, texts: list[str]) -> None:
        if number == 3:
            timers.append(after(2, oracle.restart))
            oracle.crash()

    oracle.script = crash
    results = run(project)
    timers[0].join(10)

    assert failures(results) == []
    check_invariants(project, oracle, results, resent=IN_FLIGHT)


@pytest.mark.case("C1")
@pytest.mark.parametrize(
    "is_new", [pytest.param(True, marks=LONG), pytest.param(False, marks=LONG)]
)
def test_a_text_that_takes_the_service_down_each_time_is_found_and_its_neighbours_are_stored(
    project: Installation, oracle: OracleService, is_new: bool
) -> None:
    project.environment["EMBEDDING_OUTAGE_SECONDS"] = "300"
    timers, poison = list[threading.Timer](), "C-0-3" if is_new else "A-7-3"
    if is_new:
        assert failures(run(project)) == []
        add_documents(project, paragraphs=1, names="C")

    def crash(number: int, texts: list[str]) -> None:
        if any(poison in text for text in texts):
            timers.append(after(2, oracle.restart))
            oracle.crash()

    oracle.script = crash
    results = run(project)
    for timer in timers:
        timer.join(10)

    assert failures(results) == []
    assert figure(results, "quarantined_by_reason") == {"connection_lost": 1}
    assert len(timers) <= 9
    resent = len(timers) * 2 * BATCH * PARALLEL
    check_invariants(project, oracle, results, resent=resent, quarantined=1)


@pytest.mark.case("C2")
@pytest.mark.long
def test_a_service_that_never_comes_back_ends_the_run_and_blames_no_text(
    project: Installation, oracle: OracleService
) -> None:
    project.environment["EMBEDDING_OUTAGE_SECONDS"] = "3"
    oracle.script = lambda number, texts: oracle.crash() if number == 3 else None
    started = time.monotonic()
    failed = run(project)
    took_s = time.monotonic() - started
    oracle.script = lambda number, texts: None
    oracle.restart()
    results = run(project)

    message = check_failure(failed)
    # Its kind, where, how often it was tried, which setting, what to do.
    assert f"ServiceUnavailable: cannot reach the embedding service at {oracle.url}" in message
    assert re.search(r"Nothing was answered for \d+ s, in \d+ tries: .*\(outage_s=3\)", message)
    assert message.endswith(
        "No text is blamed, and what was embedded is kept: run the partition again "
        f"(partition {PARTITION})"
    )
    assert took_s < 15
    assert failures(results) == []
    # What was answered before the end was kept.
    assert figure(results, "reused") >= 2 * BATCH
    check_invariants(project, oracle, results, resent=IN_FLIGHT)


@pytest.mark.case("C3")
@AT_EITHER_PACE
def test_a_stalled_service_is_given_up_in_time_and_its_late_answer_is_not_read(
    project: Installation, oracle: OracleService
) -> None:
    project.environment["EMBEDDING_API_TIMEOUT"] = "1"
    go_on = threading.Event()

    def stall(number: int, texts: list[str]) -> None:
        if number == 3:
            go_on.wait(30)
        if number > 5:
            # The late answer is sent while the run goes on.
            go_on.set()

    oracle.script = stall
    results = run(project)

    assert failures(results) == []
    assert go_on.is_set()
    check_invariants(project, oracle, results, resent=IN_FLIGHT)


@pytest.mark.case("C3")
@pytest.mark.long
@pytest.mark.parametrize("outage_s", [2, 20], ids=["shorter-than-the-search", "usual"])
@AT_EITHER_PACE
def test_a_text_that_stalls_the_service_each_time_is_found_and_its_neighbours_are_stored(
    project: Installation, oracle: OracleService, outage_s: int
) -> None:
    project.environment |= {
        "EMBEDDING_API_TIMEOUT": "1",
        "EMBEDDING_OUTAGE_SECONDS": str(outage_s),
    }
    closing = threading.Event()

    def stall(number: int, texts: list[str]) -> None:
        if any("A-7-3" in text for text in texts):
            closing.wait(30)

    oracle.script = stall
    results = run(project)
    closing.set()

    assert failures(results) == []
    assert figure(results, "quarantined_by_reason") == {"timed_out": 1}
    check_invariants(project, oracle, results, resent=IN_FLIGHT, quarantined=1)


@pytest.mark.case("C3")
@pytest.mark.parametrize("stalled_s", [3, pytest.param(60, marks=LONG)])
def test_while_the_service_is_stalled_the_database_holds_no_transaction_and_no_lock(
    project: Installation, oracle: OracleService, stalled_s: int
) -> None:
    project.environment["EMBEDDING_API_TIMEOUT"] = "120"
    stalled, go_on, clean = threading.Event(), threading.Event(), list[bool]()

    def stall(number: int, texts: list[str]) -> None:
        if number == 3:
            stalled.set()
            go_on.wait(120)

    def watch() -> None:
        assert stalled.wait(60)
        try:
            for _ in range(stalled_s):
                go_on.wait(1)
                check_nothing_is_held(project)
                clean.append(True)
        finally:
            go_on.set()

    oracle.script = stall
    watcher = threading.Thread(target=watch)
    watcher.start()
    results = run(project)
    watcher.join(10)

    assert failures(results) == []
    assert clean == [True] * stalled_s
    check_invariants(project, oracle, results, resent=0)


@pytest.mark.case("C4")
def test_a_reply_that_drips_is_given_up_at_the_total_deadline(
    project: Installation, oracle: OracleService
) -> None:
    project.environment["EMBEDDING_API_TIMEOUT"] = "1"

    def drip(number: int, texts: list[str]) -> Reply | None:
        regular = oracle.regular(texts)
        return Reply(200, regular.body, manner="drip") if number == 3 else None

    oracle.script = drip
    started = time.monotonic()
    results = run(project)

    assert failures(results) == []
    assert time.monotonic() - started < 15
    # What dripped was not waited for to its end, but asked for again.
    assert oracle.sent.count(oracle.sent[3]) == 2
    check_invariants(project, oracle, results, resent=BATCH)


@pytest.mark.case("C5")
@AT_EITHER_PACE
def test_a_full_service_is_left_alone_for_the_time_it_names(
    project: Installation, oracle: OracleService
) -> None:
    arrivals: list[float] = []

    def full(number: int, texts: list[str]) -> Reply | None:
        arrivals.append(time.monotonic())
        return Reply.error(429, "queue_full", Retry_After="2") if number in (0, 1) else None

    oracle.script = full
    results = run(project)

    assert failures(results) == []
    assert arrivals[2] - arrivals[0] >= 2
    assert figure(results, "refusals") == 2
    assert figure(results, "quarantined") == 0
    check_invariants(project, oracle, results, resent=2 * BATCH)


@pytest.mark.case("C7")
def test_a_service_that_drains_and_comes_back_loses_nothing(
    project: Installation, oracle: OracleService
) -> None:
    timers = []

    def drain(number: int, texts: list[str]) -> Reply | None:
        if number == 3:
            timers.append(after(1, oracle.crash))
            timers.append(after(2, oracle.restart))
        if number >= 3 and not timers[1].finished.is_set():
            return Reply.error(503, "draining", Retry_After="1")
        return None

    oracle.script = drain
    results = run(project)
    for timer in timers:
        timer.join(10)

    assert failures(results) == []
    check_invariants(project, oracle, results, resent=IN_FLIGHT)


@pytest.mark.case("C8")
@pytest.mark.parametrize(
    "outage_s",
    [
        pytest.param(3, marks=LONG),
        pytest.param(20, marks=LONG),
        pytest.param(600, marks=[pytest.mark.full, pytest.mark.timeout(900)]),
    ],
)
def test_a_service_that_stays_full_ends_the_run_after_bounded_attempts(
    project: Installation, oracle: OracleService, outage_s: int
) -> None:
    project.environment["EMBEDDING_OUTAGE_SECONDS"] = str(outage_s)
    oracle.script = lambda number, texts: Reply.error(429, "queue_full", Retry_After="1")
    failed = run(project)
    attempts = len(oracle.sent)
    oracle.script = lambda number, texts: None
    results = run(project)

    message = check_failure(failed)
    assert "ServiceOverloaded" in message
    assert "queue_full" in message
    assert attempts <= PARALLEL * (outage_s + 2)
    assert failures(results) == []
    check_invariants(project, oracle, results, resent=attempts * BATCH)


def fails_at(poison: str) -> Callable[[int, list[str]], Reply | None]:
    def script(number: int, texts: list[str]) -> Reply | None:
        return Reply.error(500, "model_failed") if any(poison in text for text in texts) else None

    return script


@pytest.mark.case("C9")
def test_one_poisoned_text_of_32_is_found_in_ten_calls_and_its_neighbours_are_stored(
    project: Installation, oracle: OracleService
) -> None:
    project.environment["EMBEDDING_BATCH_SIZE"] = "32"
    clean = run(project)
    needed = len(oracle.sent)
    project.environment["RBA_CORPUS"] = "again"
    oracle.sent.clear()
    oracle.script = fails_at("A-7-3")
    results = run(project)

    assert failures(clean) == failures(results) == []
    assert len(oracle.sent) + oracle.canaries - 2 - needed <= 10
    assert figure(results, "quarantined_by_reason") == {"model_failed": 1}
    assert len([row for row in project.rows().values() if row[0] == "again"]) == (
        figure(results, "texts") - 1
    )


@pytest.mark.case("C9")
def test_publishing_alone_lists_the_texts_without_a_vector(
    project: Installation, oracle: OracleService
) -> None:
    oracle.script = fails_at("A-7-3")
    first = run(project)
    with project.neighbours() as found:
        (before,) = found.vector_store.quarantine()
        found.vector_store.drop_from_quarantine("text", [before.name])

    settings = project.settings
    published = dg.materialize(
        [vectors_asset(partitions_by(settings.grain, settings.first_year), None)],
        partition_key=PARTITION,
        resources=build_resources(settings),
        instance=dg.DagsterInstance.ephemeral(),
    )

    assert failures(first) == []
    assert published.success
    with project.neighbours() as found:
        assert found.vector_store.quarantine() == [before]


@pytest.mark.case("C9")
@pytest.mark.long
def test_a_text_in_quarantine_is_tried_again_only_on_demand(
    project: Installation, oracle: OracleService
) -> None:
    oracle.script = lambda number, texts: next(
        (
            Reply.error(422, "text_invalid", place)
            for place, text in enumerate(texts)
            if "A-7-3" in text
        ),
        None,
    )
    first = run(project)
    check_invariants(project, oracle, first, resent=BATCH, quarantined=1)
    oracle.sent.clear()
    second = run(project)
    assert oracle.sent == []
    assert figure(second, "quarantined") == 1
    oracle.script = lambda number, texts: None
    with project.neighbours() as found:
        (entry,) = found.vector_store.quarantine()
        retry(found.embedding_store, found.vector_store, [entry.name])
    third = run(project)

    assert figure(third, "quarantined") == 0
    assert len(oracle.texts_sent) == 1
    oracle.sent.extend([row[6]] for row in project.rows().values())
    check_invariants(project, oracle, third, resent=1)


@pytest.mark.long
def test_a_second_chance_given_while_a_run_is_under_way_is_not_lost(
    project: Installation, oracle: OracleService
) -> None:
    def reject(number: int, texts: list[str]) -> Reply | None:
        bad = [place for place, text in enumerate(texts) if "A-7-3" in text]
        return Reply.error(422, "text_invalid", bad[0]) if bad else None

    def give_a_second_chance(number: int, texts: list[str]) -> None:
        if number == 0:
            with project.neighbours() as found:
                (entry,) = found.vector_store.quarantine()
                retry(found.embedding_store, found.vector_store, [entry.name])

    oracle.script = reject
    run(project)
    project.add("late.html", title="Late", day="9 May 2011", paragraphs=["Wheat rose."])
    oracle.sent.clear()
    oracle.script = give_a_second_chance
    meanwhile = run(project)
    afterwards = run(project)

    assert failures([*meanwhile, *afterwards]) == []
    assert figure(meanwhile, "quarantined") == 1
    assert figure(afterwards, "quarantined") == 0


@pytest.mark.long
def test_a_second_chance_that_another_run_has_used_meanwhile_is_named(
    project: Installation, oracle: OracleService
) -> None:
    other = list[PartitionResult]()

    def be_overtaken(number: int, texts: list[str]) -> None:
        if number == 0:
            with project.neighbours() as found:
                (entry,) = found.vector_store.quarantine()
                retry(found.embedding_store, found.vector_store, [entry.name])
            other.extend(run(project))

    oracle.script = lambda number, texts: next(
        (
            Reply.error(422, "text_invalid", place)
            for place, text in enumerate(texts)
            if "A-7-3" in text
        ),
        None,
    )
    run(project)
    add_documents(project, paragraphs=1, names="C")
    oracle.sent.clear()
    oracle.script = be_overtaken
    overtaken = run(project)
    afterwards = run(project)

    message = check_failure(overtaken)
    assert "another run has changed that meanwhile. Materialise 'embeddings' again" in message
    assert failures([*other, *afterwards]) == []
    assert figure(afterwards, "quarantined") == 0


@pytest.mark.case("C11")
@pytest.mark.long
def test_a_service_that_fails_at_everything_is_no_poison(
    project: Installation, oracle: OracleService
) -> None:
    project.environment["EMBEDDING_OUTAGE_SECONDS"] = "4"

    def outage(number: int, texts: list[str]) -> Reply | None:
        return Reply.error(500, "model_failed") if number >= 3 else None

    oracle.script = outage
    oracle.canary_script = lambda: (
        Reply.error(500, "model_failed") if len(oracle.sent) > 3 else None
    )
    failed = run(project)
    attempts = len(oracle.sent)
    oracle.script, oracle.canary_script = lambda number, texts: None, lambda: None
    results = run(project)

    message = check_failure(failed)
    assert "ModelFailed" in message
    assert "No text is blamed" in message
    # By what it says itself: four seconds, and the pause that they ended in.
    waited = re.search(r"Nothing was answered for (\d+) s", message)
    assert waited
    assert 4 <= int(waited[1]) <= 12
    assert attempts <= 3 + 6
    assert failures(results) == []
    assert figure(results, "quarantined") == 0
    check_invariants(project, oracle, results, resent=6 * BATCH)


@pytest.mark.case("C11", "C12")
@pytest.mark.parametrize(
    ("refusal", "named"),
    [
        pytest.param(
            Reply(413, b"<html>"), "nginx: client_max_body_size", id="413-of-a-proxy", marks=LONG
        ),
        pytest.param(Reply.error(413, "too_large"), "it is not the texts", id="413", marks=LONG),
        pytest.param(Reply.error(422, "text_empty", 0), "it is not the texts", id="422"),
        pytest.param(Reply.error(500, "model_failed"), "it is not the texts", id="500", marks=LONG),
    ],
)
@pytest.mark.parametrize("is_new", [True, pytest.param(False, marks=LONG)], ids=["one", "all"])
def test_a_service_that_embeds_nothing_but_its_canary_has_no_text_blamed(
    project: Installation, oracle: OracleService, refusal: Reply, named: str, is_new: bool
) -> None:
    project.environment["EMBEDDING_OUTAGE_SECONDS"] = "300"
    if is_new:
        assert failures(run(project)) == []
        add_documents(project, paragraphs=1, names="C")
    before, needed = len(oracle.sent), len(project.rows())
    oracle.script = lambda number, texts: refusal
    failed = run(project)
    attempts = len(oracle.sent) - before
    oracle.script = lambda number, texts: None
    results = run(project)

    message = check_failure(failed)
    assert named in message
    assert attempts <= 150
    assert failures(results) == []
    assert figure(results, "quarantined") == 0
    assert len(project.rows()) > needed
    check_invariants(project, oracle, results, resent=attempts * BATCH)


@pytest.mark.case("C12")
def test_a_request_that_is_too_large_is_split_and_one_text_that_is_goes_to_quarantine(
    project: Installation, oracle: OracleService
) -> None:
    def too_large(number: int, texts: list[str]) -> Reply | None:
        huge = any("B-9-2" in text for text in texts)
        return Reply.error(413, "too_large") if huge or len(texts) > 4 else None

    oracle.script = too_large
    results = run(project)

    assert failures(results) == []
    assert figure(results, "quarantined_by_reason") == {"too_large": 1}
    assert len({tuple(sent) for sent in oracle.sent}) == len(oracle.sent)
    check_invariants(project, oracle, results, resent=len(oracle.texts_sent), quarantined=1)


@pytest.mark.case("C14")
@pytest.mark.parametrize("status", [401, pytest.param(403, marks=LONG)])
def test_a_refused_key_fails_at_once_and_is_not_shown(
    project: Installation, oracle: OracleService, status: int
) -> None:
    oracle.script = lambda number, texts: Reply.error(status, "not_allowed")
    failed = run(project)
    attempts = len(oracle.sent)
    oracle.script = lambda number, texts: None
    results = run(project)

    message = check_failure(failed)
    assert "check EMBEDDING_API_KEY" in message
    assert attempts <= PARALLEL
    check_invariants(project, oracle, results, resent=IN_FLIGHT)


def change(oracle: OracleService, texts: list[str], how: Callable[[list[Any]], object]) -> Reply:
    body = json.loads(oracle.regular(texts).body)
    how(body["data"])
    return Reply(200, json.dumps(body).encode())


def with_values(data: list[Any], place: int, *values: float) -> None:
    vector = np.zeros(8, "<f4")
    vector[: len(values)] = values
    data[place]["embedding"] = base64.b64encode(vector.tobytes()).decode()


@pytest.mark.parametrize(
    ("how", "named"),
    [
        pytest.param(lambda data: data.pop(), "vectors came back", id="C15-one-too-few",
                     marks=pytest.mark.case("C15")),
        pytest.param(lambda data: data.append(dict(data[0], index=len(data))),
                     "vectors came back", id="C15-one-too-many",
                     marks=[pytest.mark.case("C15"), LONG]),
        pytest.param(lambda data: data[1].update(index=0), "index 0", id="C16-index-twice",
                     marks=pytest.mark.case("C16")),
        pytest.param(lambda data: data[1].pop("index"), "index None", id="C16-index-missing",
                     marks=[pytest.mark.case("C16"), LONG]),
        pytest.param(lambda data: with_values(data, 2, float("nan")), "vector 2 holds NaN",
                     id="C18-nan", marks=pytest.mark.case("C18")),
        pytest.param(lambda data: with_values(data, 2, float("inf")), "vector 2 holds NaN or",
                     id="C18-infinity", marks=[pytest.mark.case("C18"), LONG]),
        pytest.param(lambda data: with_values(data, 0), "vector 0 has length",
                     id="C18-zero", marks=[pytest.mark.case("C18"), LONG]),
        pytest.param(lambda data: data[3].update(embedding=None), "vector 3 is not base64",
                     id="C18-null", marks=[pytest.mark.case("C18"), LONG]),
        pytest.param(lambda data: data[3].update(embedding=[0.6, "0.8"]), "vector 3 is not base64",
                     id="C18-list-with-text", marks=[pytest.mark.case("C18"), LONG]),
        pytest.param(lambda data: data[3].update(embedding="!!!!"), "vector 3 is not base64",
                     id="C18-no-base64", marks=[pytest.mark.case("C18"), LONG]),
    ],
)  # fmt: skip
def test_a_reply_that_breaks_the_contract_is_refused_whole(
    project: Installation, oracle: OracleService, how: Callable[[list[Any]], object], named: str
) -> None:
    bad: list[str] = []

    def once(number: int, texts: list[str]) -> Reply | None:
        if number != 3:
            return None
        bad.extend(texts)
        return change(oracle, texts, how)

    oracle.script = once
    failed = run(project)
    with project.neighbours() as found:
        window = project.window(PARTITION)
        blocks = list(found.embedding_store.kept(oracle.space(), window.year))
    oracle.script = lambda number, texts: None
    results = run(project)

    message = check_failure(failed)
    assert "ContractBroken" in message
    assert named in message
    assert {name for _, names in blocks for name in names}.isdisjoint(map(sha256, bad))
    assert failures(results) == []
    check_invariants(project, oracle, results, resent=IN_FLIGHT)


def test_a_text_that_was_cut_by_a_run_that_failed_is_known_as_cut_afterwards(
    project: Installation, oracle: OracleService
) -> None:
    project.environment["EMBEDDING_TRUNCATE"] = "true"

    def cut_one_then_break(number: int, texts: list[str]) -> Reply | None:
        if number == 0:
            return change(oracle, texts, lambda data: data[0].update(truncated=True))
        return None if number < 6 else Reply.error(400, "no_such_thing")

    oracle.script = cut_one_then_break
    message = check_failure(run(project))
    oracle.script = lambda number, texts: None
    results = run(project)

    assert "no_such_thing" in message
    assert failures(results) == []
    assert figure(results, "truncated") == 1
    check_invariants(project, oracle, results, resent=IN_FLIGHT)


@pytest.mark.case("C16")
def test_a_reply_in_another_order_is_placed_by_index(
    project: Installation, oracle: OracleService
) -> None:
    oracle.script = lambda number, texts: change(
        oracle, texts, lambda data: random.Random(number).shuffle(data)
    )
    results = run(project)

    assert failures(results) == []
    check_invariants(project, oracle, results, resent=0)


@pytest.mark.case("C20")
def test_a_connection_that_is_reset_in_the_body_is_retried_and_nothing_partial_is_kept(
    project: Installation, oracle: OracleService
) -> None:
    oracle.script = lambda number, texts: (
        Reply(200, oracle.regular(texts).body, manner="cut") if number == 3 else None
    )
    results = run(project)

    assert failures(results) == []
    check_invariants(project, oracle, results, resent=BATCH)


@pytest.mark.case("C21")
@pytest.mark.parametrize(
    ("reply", "named"),
    [
        pytest.param(Reply(200, b"<html>all is well</html>"), "not JSON", id="html"),
        pytest.param(Reply(200, b"{}", {"Content-Type": "text/html"}), "not JSON but text/html",
                     id="another-type", marks=LONG),
        pytest.param(Reply(200, b'{"data": ['), "not JSON", id="cut-off-json", marks=LONG),
        pytest.param(Reply(200, b"[" * 60_000), "not JSON", id="deep-json", marks=LONG),
        pytest.param(Reply(200, b'{"data": "' + b"x" * (1 << 22) + b'"}'),
                     "has more than", id="endless", marks=LONG),
        pytest.param(Reply(200, b"\x1f\x8b" + b"0" * 99, {"Content-Encoding": "gzip"}),
                     "is compressed", id="compressed", marks=LONG),
    ],
)  # fmt: skip
def test_a_reply_that_is_none_is_refused(
    project: Installation, oracle: OracleService, reply: Reply, named: str
) -> None:
    oracle.script = lambda number, texts: reply if number == 3 else None
    failed = run(project)
    oracle.script = lambda number, texts: None
    results = run(project)

    message = check_failure(failed)
    assert "ContractBroken" in message
    assert named in message
    assert failures(results) == []
    check_invariants(project, oracle, results, resent=IN_FLIGHT)


@pytest.mark.case("C24")
def test_another_model_between_two_batches_stops_the_partition_and_mixes_nothing(
    project: Installation, oracle: OracleService
) -> None:
    first = oracle.space()

    def swap(number: int, texts: list[str]) -> None:
        if number == 3:
            oracle.model = "another"

    oracle.script = swap
    failed = run(project)
    in_between = project.rows()
    oracle.script = lambda number, texts: None
    results = run(project)

    message = check_failure(failed)
    assert "WrongSpace" in message
    assert first in message
    assert oracle.space() in message
    assert in_between == {}
    assert failures(results) == []
    assert {row[1] for row in project.rows().values()} == {oracle.space()}
    check_invariants(project, oracle, results, resent=len(oracle.texts_sent))


@pytest.mark.case("C25")
def test_the_same_space_with_other_numbers_stops_the_next_run(
    project: Installation, oracle: OracleService
) -> None:
    first = run(project)
    before = project.rows()
    add_documents(project, paragraphs=4, names="C")
    oracle.canary_script = lambda: oracle.regular(["a song that is slightly off"])
    oracle.sent.clear()
    failed = run(project)

    message = check_failure(failed)
    assert failures(first) == []
    assert "VectorsDrifted" in message
    assert "python -m embedding_service check" in message
    assert oracle.sent == []
    assert project.rows() == before


@pytest.mark.case("C27")
@LONG
@AT_EITHER_PACE
def test_a_tenth_of_requests_failing_at_random_loses_nothing(
    project: Installation, oracle: OracleService
) -> None:
    project.environment |= {"EMBEDDING_API_TIMEOUT": "1", "EMBEDDING_PARALLEL_BATCHES": "4"}
    add_documents(project, paragraphs=500, names="CDEF")
    chance, closing = random.Random(27), threading.Event()

    def fail(number: int, texts: list[str]) -> Reply | None:
        if chance.random() >= 0.1:
            return None
        kind = chance.choice(["500", "503", "reset", "stall"])
        if kind == "stall":
            closing.wait(3)
        if kind == "reset":
            return Reply(200, oracle.regular(texts).body, manner="cut")
        return Reply.error(int(kind), "by_chance") if kind in ("500", "503") else None

    oracle.script = fail
    started = time.monotonic()
    results = run(project)
    closing.set()

    texts = figure(results, "texts")
    assert failures(results) == []
    assert texts >= 2000
    assert figure(results, "quarantined") == 0
    assert figure(results, "texts_sent") <= 1.3 * texts
    assert figure(results, "requests") <= 1.3 * texts / BATCH
    assert time.monotonic() - started < 90
    check_invariants(project, oracle, results, resent=int(0.3 * texts))


@pytest.mark.case("C1", "C7")
@AT_EITHER_PACE
def test_of_two_services_one_is_killed_and_brought_back_and_both_are_used_at_the_end(
    project: Installation, oracle: OracleService
) -> None:
    add_documents(project, paragraphs=400, names="CD")
    timers, never, back_at = [], threading.Event(), list[int]()
    with OracleService() as other:
        project.environment["EMBEDDING_API_URL"] = f"{oracle.url},{other.url}"

        def restart() -> None:
            back_at.append(len(other.sent))
            other.restart()

        def crash(number: int, texts: list[str]) -> None:
            # Slow enough that the one that was away is back before the end.
            never.wait(0.05)
            if number == 10:
                timers.append(after(0.5, restart))
                other.crash()

        other.script = crash
        oracle.script = lambda number, texts: never.wait(0.05) and None
        results = run(project)
        timers[0].join(10)
        after_it_was_back = len(other.sent) - back_at[0]
        sent = len(oracle.texts_sent) + len(other.texts_sent)
        oracle.sent.extend(other.sent)

    assert failures(results) == []
    assert after_it_was_back >= 5
    assert len(figure(results, "texts_by_address")) == 2
    assert sent - figure(results, "texts") <= BATCH * PARALLEL
    check_invariants(project, oracle, results, resent=BATCH * PARALLEL)
