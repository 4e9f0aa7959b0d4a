"""The service is full, away or stalled just when a run begins: the C cases at its handshake."""

import threading
import time

import pytest

from rba_pipeline.materialise import PartitionResult
from rba_pipeline_tests.faults.conftest import BATCH, PARALLEL, PARTITION
from rba_pipeline_tests.faults.invariants import check_failure, check_invariants
from rba_pipeline_tests.installation import Installation, failures
from rba_pipeline_tests.oracle_service import OracleService, Reply
from rba_pipeline_tests.resources.raw_server import PATIENCE_S, RawServer

pytestmark = pytest.mark.postgres

FULL = Reply.error(429, "queue_full", Retry_After="1")


def run(project: Installation) -> list[PartitionResult]:
    return project.run(PARTITION)


@pytest.mark.case("C5")
@pytest.mark.long
def test_a_service_that_is_full_for_the_canary_is_waited_for_as_it_tells(
    project: Installation, oracle: OracleService
) -> None:
    arrivals: list[float] = []

    def full() -> Reply | None:
        arrivals.append(time.monotonic())
        # Together longer than somebody who waits would.
        return Reply.error(429, "queue_full", Retry_After="3") if len(arrivals) == 1 else None

    oracle.canary_script = full
    results = run(project)

    assert failures(results) == []
    assert arrivals[1] - arrivals[0] >= 3
    check_invariants(project, oracle, results, resent=0)


@pytest.mark.case("C7")
@pytest.mark.long
def test_a_run_that_begins_while_the_service_restarts_waits_for_it(
    project: Installation, oracle: OracleService
) -> None:
    def start(path: str) -> Reply | None:
        starts = oracle.pages.count("/info") <= 2
        return Reply.error(503, "starting", Retry_After="1") if starts else None

    oracle.page_script = start
    oracle.crash()
    # More than somebody who waits would wait.
    restarting = threading.Timer(3, oracle.restart)
    restarting.start()
    results = run(project)
    restarting.join(10)

    assert failures(results) == []
    assert oracle.pages.count("/info") == 2 + 2
    check_invariants(project, oracle, results, resent=0)


@pytest.mark.case("C8")
@pytest.mark.parametrize(
    "asked",
    [
        "/info",
        pytest.param("/tokenizer.json", marks=pytest.mark.long),
        pytest.param("canary", marks=pytest.mark.long),
    ],
)
def test_a_service_that_stays_full_before_the_work_ends_the_run_after_bounded_tries(
    project: Installation, oracle: OracleService, asked: str
) -> None:
    project.environment["EMBEDDING_OUTAGE_SECONDS"] = "3"
    oracle.page_script = lambda path: FULL if path == asked else None
    oracle.canary_script = lambda: FULL if asked == "canary" else None
    failed = run(project)
    tries = oracle.canaries if asked == "canary" else oracle.pages.count(asked)
    oracle.page_script, oracle.canary_script = lambda path: None, lambda: None
    results = run(project)

    message = check_failure(failed, of_texts=False)
    assert "ServiceOverloaded" in message
    assert "queue_full" in message
    assert "outage_s=3" in message
    assert 3 <= tries <= 8
    assert failures(results) == []
    check_invariants(project, oracle, results, resent=0)


@pytest.mark.case("C8")
def test_of_two_services_one_that_is_full_for_the_canary_holds_up_nothing(
    project: Installation, oracle: OracleService
) -> None:
    with OracleService() as other:
        project.environment["EMBEDDING_API_URL"] = f"{other.url},{oracle.url}"
        other.canary_script = lambda: Reply.error(429, "queue_full", Retry_After="60")
        results = run(project)
        canaries, sent = other.canaries, list(other.sent)

    assert failures(results) == []
    # Its canary, and the probe that it named so long a time for.
    assert canaries <= 3
    # Who did not sing gets no text.
    assert sent == []
    check_invariants(project, oracle, results, resent=0)


@pytest.mark.case("C3")
@pytest.mark.parametrize("timeout_s", [2, pytest.param(20, marks=pytest.mark.long)])
def test_of_two_services_one_that_stalls_holds_up_a_run_for_a_bounded_time(
    project: Installation, oracle: OracleService, timeout_s: int
) -> None:
    project.environment["EMBEDDING_API_TIMEOUT"] = str(timeout_s)
    with RawServer(lambda connection, number: silent.stopping.wait(PATIENCE_S) and None) as silent:
        project.environment["EMBEDDING_API_URL"] = f"{silent.url},{oracle.url}"
        began_s = time.monotonic()
        results = run(project)
        took_s, asked = time.monotonic() - began_s, silent.connections

    assert failures(results) == []
    # Two handshakes, each with the time of one page, and probes while the others work.
    assert asked <= 2 + 3
    assert took_s < 2 * min(timeout_s, 10) + 20
    check_invariants(project, oracle, results, resent=BATCH * PARALLEL)


@pytest.mark.case("C3")
def test_a_service_that_stalls_before_the_work_ends_the_run_within_its_outage(
    project: Installation, oracle: OracleService
) -> None:
    project.environment |= {"EMBEDDING_API_TIMEOUT": "1", "EMBEDDING_OUTAGE_SECONDS": "4"}
    with RawServer(lambda connection, number: silent.stopping.wait(PATIENCE_S) and None) as silent:
        project.environment["EMBEDDING_API_URL"] = silent.url
        began_s = time.monotonic()
        failed = run(project)
        took_s, asked = time.monotonic() - began_s, silent.connections

    message = check_failure(failed, of_texts=False)
    assert "ServiceUnavailable" in message
    assert "(/info): it stalls" in message
    assert "outage_s=4" in message
    assert 3 <= asked <= 5
    assert took_s < 20
