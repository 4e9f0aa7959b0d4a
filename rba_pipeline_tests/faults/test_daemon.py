"""Backfills, pools and cancelled runs: the O cases with a daemon, all over one stack."""

import itertools
import threading
from typing import Any

import psutil
import pytest
from dagster import DagsterRunStatus

from rba_pipeline_tests.faults.conftest import LIVE_BATCH, LIVE_PARALLEL, deadline_s, fill
from rba_pipeline_tests.faults.invariants import PHRASE, check_invariants
from rba_pipeline_tests.faults.live_dagster import IN_ONE_PROCESS, LiveDagster, result_of
from rba_pipeline_tests.installation import RUN_S, Installation, failures, total
from rba_pipeline_tests.oracle_service import KEY, OracleService, Reply

pytestmark = [pytest.mark.postgres, pytest.mark.long, pytest.mark.timeout(300)]

# As dagster.yaml has them.
RUNS_AT_ONCE, POOL_LIMIT = 4, 2

SIZES = [
    pytest.param(10, id="10-partitions"),
    pytest.param(50, id="50-partitions", marks=[pytest.mark.full, pytest.mark.timeout(1200)]),
]


@pytest.fixture
def oracle(live_oracle: OracleService) -> OracleService:
    return live_oracle


@pytest.fixture
def project(live_project: Installation) -> Installation:
    return live_project


@pytest.mark.case("O4")
@pytest.mark.parametrize("partitions", SIZES)
def test_o4_a_backfill_outlives_the_daemon_and_runs_each_partition_once(
    live: LiveDagster, project: Installation, oracle: OracleService, partitions: int
) -> None:
    keys = fill(project, partitions)
    reached, gone = threading.Event(), threading.Event()

    def hold(number: int, texts: list[str]) -> None:
        if number >= partitions // 2:
            reached.set()
            gone.wait(RUN_S)

    def begun() -> int:
        return sum(run.status is DagsterRunStatus.STARTED for run in live.runs(backfill))

    oracle.script = hold
    backfill = live.backfill(keys)
    assert reached.wait(deadline_s(partitions))
    # None is on its way from the queue then: Dagster gives that one up after three minutes.
    live.until(lambda: begun() == RUNS_AT_ONCE, deadline_s(partitions))
    live.kill_daemon()
    gone.set()
    live.start_daemon()
    results = live.results(backfill, partitions, deadline_s(partitions))

    assert [result.key for result in results] == keys
    assert failures(results) == []
    check_invariants(project, oracle, results, resent=0)


@pytest.mark.case("O5")
@pytest.mark.parametrize("partitions", SIZES)
def test_o5_errors_that_pass_leave_every_partition_green(
    live: LiveDagster, project: Installation, oracle: OracleService, partitions: int
) -> None:
    passing = itertools.cycle(
        [
            Reply.error(503, "draining"),
            Reply.error(429, "queue_full", Retry_After="1"),
            Reply(200, b"{}" * 100, manner="cut"),
            Reply.error(500, "model_failed"),
        ]
    )
    struck = []

    def script(number: int, texts: list[str]) -> Reply | None:
        if number % 10 != 3:
            return None
        struck.append(number)
        return next(passing)

    oracle.script = script
    results = live.results(
        live.backfill(fill(project, partitions)), partitions, deadline_s(partitions)
    )

    assert failures(results) == []
    assert total(results, "embeddings", "quarantined") == 0
    assert len(struck) >= partitions // 4
    check_invariants(project, oracle, results, resent=LIVE_BATCH * len(struck))


@pytest.mark.case("O5")
@pytest.mark.parametrize("partitions", SIZES)
def test_o5_poisoned_texts_are_quarantined_and_every_partition_is_green(
    live: LiveDagster, project: Installation, oracle: OracleService, partitions: int
) -> None:
    keys = fill(project, partitions)
    poisoned = keys[:: len(keys) // max(1, partitions // 10)]
    poison = [f"{key[:4]}-7-3" for key in poisoned]

    def script(number: int, texts: list[str]) -> Reply | None:
        hit = any(each in text for text in texts for each in poison)
        return Reply.error(500, "model_failed") if hit else None

    oracle.script = script
    results = live.results(live.backfill(keys), partitions, deadline_s(partitions))

    assert failures(results) == []
    counts = {result.key: result.metadata["embeddings"]["quarantined"] for result in results}
    assert counts == {key: int(key in poisoned) for key in keys}
    # Three halvings of a batch of four, and each text alone once more.
    check_invariants(
        project,
        oracle,
        results,
        resent=5 * LIVE_BATCH * len(poison),
        quarantined=len(poison),
    )


@pytest.mark.case("O5")
@pytest.mark.parametrize("partitions", SIZES)
def test_o5_broken_partitions_are_red_with_their_cause_and_no_other_is(
    live: LiveDagster, project: Installation, oracle: OracleService, partitions: int
) -> None:
    keys = fill(project, partitions)
    damaged, misread = keys[3::20], keys[7::20]
    for key in damaged:
        part = f"embeddings/publications/{oracle.space()}/{key[:4]}/part-torn.parquet"
        path = project.folder / "store" / part
        path.parent.mkdir(parents=True)
        path.write_bytes(b"PAR1 and then the disk was full")

    def script(number: int, texts: list[str]) -> Reply | None:
        hit = any(f"{key[:4]}-7-3" in text for text in texts for key in misread)
        return oracle.regular(texts[1:]) if hit else None

    oracle.script = script
    results = live.results(live.backfill(keys), partitions, deadline_s(partitions))
    for key in damaged:
        (project.folder / "store").glob(f"**/{key[:4]}/part-torn.parquet").__next__().unlink()
    oracle.script = lambda number, texts: None
    again = live.results(
        live.backfill([*damaged, *misread]), len(damaged + misread), deadline_s(partitions)
    )

    causes = {result.key: result.failure for result in results if result.failure}
    assert causes.keys() == {*damaged, *misread}
    assert all("part-torn.parquet is not a whole" in causes[key] for key in damaged)
    assert all("ContractBroken" in causes[key] for key in misread)
    assert failures(again) == []
    mended = {result.key: result for result in [*results, *again]}
    check_invariants(
        project, oracle, list(mended.values()), resent=2 * LIVE_BATCH * LIVE_PARALLEL * len(misread)
    )


@pytest.mark.case("O6")
def test_o6_the_second_run_of_a_partition_waits_for_the_first_and_sends_nothing_again(
    live: LiveDagster, project: Installation, oracle: OracleService
) -> None:
    one, other = fill(project, 2)
    reached, passed, released = threading.Event(), threading.Event(), threading.Event()

    def hold(number: int, texts: list[str]) -> None:
        # The same texts again would be the second run's.
        if f" {one[:4]}-" in texts[0] and texts not in oracle.sent[:number]:
            reached.set()
            released.wait(RUN_S)
        else:
            passed.set()

    oracle.script = hold
    first = live.launch(one, IN_ONE_PROCESS)
    assert reached.wait(RUN_S)
    second = live.launch(one, IN_ONE_PROCESS)
    # Launched after the second, it goes past it: the daemon has seen both.
    third = live.launch(other, IN_ONE_PROCESS)
    assert passed.wait(RUN_S)
    meanwhile = live.status(first), live.status(second)
    released.set()
    live.until(lambda: all(run.is_finished for run in live.of(first, second, third)))
    results = [result_of(live.instance, run) for run in live.of(first, second, third)]

    assert meanwhile == (DagsterRunStatus.STARTED, DagsterRunStatus.QUEUED)
    assert failures(results) == []
    assert results[0].ended <= results[1].started
    assert results[1].metadata["embeddings"]["texts_sent"] == 0
    check_invariants(project, oracle, results[1:], resent=0)


@pytest.mark.case("O8")
def test_o8_no_more_requests_are_open_than_the_pool_and_the_runs_allow(
    live: LiveDagster, project: Installation, oracle: OracleService
) -> None:
    most = LIVE_PARALLEL * POOL_LIMIT
    released = threading.Event()

    def hold(number: int, texts: list[str]) -> None:
        released.wait(RUN_S)

    def settled() -> bool:
        pool = live.instance.event_log_storage.get_concurrency_info("embedding")
        return len(oracle.sent) > most or (pool.pending_step_count > 0 and len(oracle.sent) == most)

    oracle.script = hold
    backfill = live.backfill(fill(project, POOL_LIMIT + 1))
    live.until(settled)
    released.set()
    results = live.results(backfill, POOL_LIMIT + 1, deadline_s(POOL_LIMIT + 1))

    assert failures(results) == []
    assert oracle.peak_in_flight == most
    check_invariants(project, oracle, results, resent=0)


@pytest.mark.case("O7")
def test_o7_a_killed_run_gives_its_place_in_the_pool_to_the_next_one(
    live: LiveDagster, project: Installation, oracle: OracleService
) -> None:
    first, second = fill(project, 2)
    texts_of = {key: f" {key[:4]}-" for key in (first, second)}
    reached, begun, gone = threading.Event(), threading.Event(), threading.Event()

    def hold(number: int, texts: list[str]) -> None:
        if texts_of[first] in texts[0] and not gone.is_set():
            reached.set()
            gone.wait(RUN_S)
        elif texts_of[second] in texts[0]:
            begun.set()

    oracle.script = hold
    storage = live.instance.event_log_storage
    storage.set_concurrency_slots("embedding", 1)
    try:
        killed = live.launch(first, IN_ONE_PROCESS)
        assert reached.wait(RUN_S)
        waiting = live.launch(second, IN_ONE_PROCESS)
        live.until(lambda: storage.get_concurrency_info("embedding").pending_step_count > 0)
        overtaken = begun.is_set()
        live.kill(killed)
        gone.set()
        # Noticed within 30 s, and freed 10 s after that; see dagster.yaml.
        assert begun.wait(60)
        live.until(lambda: live.status(waiting) is DagsterRunStatus.SUCCESS)
    finally:
        storage.delete_concurrency_limit("embedding")

    assert not overtaken
    assert live.status(killed) is DagsterRunStatus.FAILURE
    results = project.run(first, second)
    assert failures(results) == []
    check_invariants(project, oracle, results, resent=2 * LIVE_BATCH * LIVE_PARALLEL)


@pytest.mark.case("O9")
@pytest.mark.parametrize(
    ("by_signal", "config"),
    [
        pytest.param(False, {}, id="by-the-button"),
        pytest.param(True, {}, id="by-sigterm"),
        pytest.param(True, IN_ONE_PROCESS, id="by-sigterm-in-one-process"),
    ],
)
def test_o9_a_cancelled_run_ends_within_ten_seconds_and_stays_cancelled(
    live: LiveDagster,
    project: Installation,
    oracle: OracleService,
    by_signal: bool,
    config: dict[str, Any],
) -> None:
    [key] = fill(project, 1)
    reached, gone = threading.Event(), threading.Event()

    def hold(number: int, texts: list[str]) -> None:
        if number == 1:
            reached.set()
            gone.wait(RUN_S)

    oracle.script = hold
    run = live.launch(key, config)
    assert reached.wait(RUN_S)
    worker = live.worker(run)
    processes = [worker, *worker.children(recursive=True)]
    if by_signal:
        worker.terminate()
    else:
        live.terminate(run)
    psutil.wait_procs(processes, timeout=10)
    sent, status = len(oracle.sent), live.status(run)
    gone.set()

    assert [process for process in processes if process.is_running()] == []
    assert status is DagsterRunStatus.CANCELED
    results = project.run(key)
    assert failures(results) == []
    assert sent <= 1 + LIVE_PARALLEL
    assert live.status(run) is DagsterRunStatus.CANCELED
    check_invariants(project, oracle, results, resent=2 * LIVE_BATCH * LIVE_PARALLEL)


@pytest.mark.case("O16")
def test_o16_the_web_interface_is_told_neither_secret_nor_text(
    live: LiveDagster, project: Installation, oracle: OracleService
) -> None:
    [key] = fill(project, 1)
    oracle.script = lambda number, texts: Reply.error(401, "not_allowed") if number == 1 else None
    runs = live.launch(key, IN_ONE_PROCESS), live.launch(key, IN_ONE_PROCESS)
    live.until(lambda: all(run.is_finished for run in live.of(*runs)))

    shown = live.shown(*runs)

    assert [live.status(run).value for run in runs] == ["FAILURE", "SUCCESS"]
    for known in ("check EMBEDDING_API_KEY", "effective_configuration", "rootDefaultYaml", key):
        assert known in shown
    # The web interface has words of its own, and PHRASE is among them.
    for secret in (KEY, ":test@", f"{PHRASE} {key[:4]}-"):
        assert secret not in shown
