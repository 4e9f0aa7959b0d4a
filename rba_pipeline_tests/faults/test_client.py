"""The service is away, stalls, is full or fails by chance: C cases, as runs of a partition."""

import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from rba_pipeline.core.embeddings import CANARY
from rba_pipeline_tests.faults.conftest import (
    AT_EITHER_PACE,
    BATCH,
    IN_FLIGHT,
    PARALLEL,
    PARTITION,
    add_documents,
)
from rba_pipeline_tests.faults.invariants import (
    check_failure,
    check_invariants,
    check_nothing_is_held,
)
from rba_pipeline_tests.faults.runs import figure, run
from rba_pipeline_tests.installation import Installation, failures
from rba_pipeline_tests.oracle_service import OracleService, Reply

pytestmark = pytest.mark.postgres

LONG = pytest.mark.long


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
    # Each time the one new text; of all texts, what was in flight twice, and then halves of it.
    resent = len(timers) if is_new else IN_FLIGHT + BATCH * PARALLEL
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
    # Its kind, where, how often it was tried, which setting, what to do, and at which texts.
    assert f"ServiceUnavailable: cannot reach the embedding service at {oracle.url}" in message
    assert re.search(r"Nothing was answered for \d+ s, in \d+ tries: .*\(outage_s=3\)", message)
    assert (
        "No text is blamed, and what was embedded is kept: run the partition again "
        f"(partition {PARTITION}; failed last: text "
    ) in message
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
@pytest.mark.timeout(300)
@pytest.mark.parametrize("stalled_s", [3, pytest.param(60, marks=LONG)])
def test_while_the_service_is_stalled_the_database_holds_no_transaction_and_no_lock(
    project: Installation, oracle: OracleService, stalled_s: int
) -> None:
    project.environment["EMBEDDING_API_TIMEOUT"] = "240"
    stalled, go_on, clean_at = threading.Event(), threading.Event(), list[float]()

    def stall(number: int, texts: list[str]) -> None:
        if number == 3:
            stalled.set()
            go_on.wait(240)

    def watch() -> None:
        assert stalled.wait(60)
        try:
            since = time.monotonic()
            while len(clean_at) < stalled_s or clean_at[-1] < stalled_s:
                go_on.wait(1)
                check_nothing_is_held(project)
                clean_at.append(time.monotonic() - since)
        finally:
            go_on.set()

    oracle.script = stall
    watcher = threading.Thread(target=watch)
    watcher.start()
    results = run(project)
    watcher.join(10)

    assert failures(results) == []
    assert clean_at[-1] >= stalled_s
    assert len(clean_at) >= stalled_s
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
    # What dripped was not waited for to its end, but asked for again, in halves.
    sent = Counter(oracle.texts_sent)
    assert {sent[text] for text in oracle.sent[3]} == {2}
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
    attempts, in_vain = len(oracle.sent), len(oracle.texts_sent)
    oracle.script = lambda number, texts: None
    results = run(project)

    message = check_failure(failed)
    assert "ServiceOverloaded" in message
    assert "queue_full" in message
    # All that was sent, by two requests again and again.
    tries = re.search(rf" and {BATCH - 1} more, at try (\d+)\)$", message)
    assert tries
    assert 1 < int(tries[1]) < attempts
    assert attempts <= PARALLEL * (outage_s + 2)
    assert failures(results) == []
    # Afterwards each text once, and nothing else.
    assert sorted(oracle.texts_sent[in_vain:]) == sorted(row[6] for row in project.rows().values())
    check_invariants(project, oracle, results, resent=in_vain)


@pytest.mark.case("C27")
@LONG
@AT_EITHER_PACE
def test_a_tenth_of_requests_failing_at_random_loses_nothing(
    project: Installation, oracle: OracleService, adaptive: str
) -> None:
    project.environment |= {"EMBEDDING_API_TIMEOUT": "1", "EMBEDDING_PARALLEL_BATCHES": "4"}
    add_documents(project, paragraphs=500, names="CDEF")
    # Of the first 333 draws of this seed, 33 fail.
    chance, closing = random.Random(2), threading.Event()

    def fail(number: int, texts: list[str]) -> Reply | None:
        if chance.random() >= 0.1:
            return None
        kind = chance.choice(["500", "503", "reset", "stall"])
        if kind == "stall":
            closing.wait(3)
        if kind == "reset":
            return Reply(200, oracle.regular(texts).body, manner="cut")
        return Reply.error(int(kind), "by_chance") if kind in ("500", "503") else None

    oracle.script, oracle.canary_script = fail, lambda: fail(-1, [CANARY])
    started = time.monotonic()
    results = run(project)
    closing.set()

    texts = figure(results, "texts")
    assert failures(results) == []
    assert texts >= 2000
    assert figure(results, "quarantined") == 0
    assert figure(results, "texts_sent") <= 1.3 * texts
    # At its own pace a run tries smaller requests as well.
    attempts = len(oracle.sent) + oracle.canaries
    assert attempts <= (1.5 if adaptive == "true" else 1.3) * texts / BATCH
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
