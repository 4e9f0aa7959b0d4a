"""Runs side by side, and what they leave behind in logs: the O cases that need no daemon."""

import signal
import threading
from collections import Counter
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster import DagsterEventType, DagsterRunStatus

from rba_pipeline_tests.faults.conftest import BATCH, PARALLEL, PARTITION
from rba_pipeline_tests.faults.invariants import PHRASE, check_invariants
from rba_pipeline_tests.faults.runs import start
from rba_pipeline_tests.installation import RUN_S, Installation, failures
from rba_pipeline_tests.oracle_service import KEY, OracleService, Reply

pytestmark = pytest.mark.postgres

# Requests of the first run: about half of what the partition takes.
HALF_WAY = 4


@pytest.mark.case("O6")
@pytest.mark.long
def test_two_runs_of_one_partition_at_once_publish_it_once(
    project: Installation, oracle: OracleService
) -> None:
    first_is_half_way, second_is_here = threading.Event(), threading.Event()

    def meet(number: int, texts: list[str]) -> None:
        # One request at a time: while the first run waits for an answer, the next is the second's.
        if number == HALF_WAY:
            first_is_half_way.set()
            second_is_here.wait(RUN_S)
        elif number > HALF_WAY:
            second_is_here.set()

    oracle.script = meet
    # Dagster's own tables are not made by two processes at once.
    with dg.DagsterInstance.get():
        pass
    project.environment["EMBEDDING_PARALLEL_BATCHES"] = "1"
    processes = [start(project)]
    assert first_is_half_way.wait(RUN_S)
    processes.append(start(project))
    outputs = [process.communicate(timeout=RUN_S)[0] for process in processes]

    assert [process.returncode for process in processes] == [0, 0], outputs
    assert second_is_here.is_set()
    sent = Counter(oracle.texts_sent)
    results = project.run(PARTITION)
    assert failures(results) == []
    # What both have kept is there: the third sends nothing.
    assert len(oracle.texts_sent) == sent.total()
    # No daemon lines them up, and no lock is held over requests: the second may send what the first
    # had no answer to when it came, and nothing else.
    check_invariants(project, oracle, results, resent=len(sent) - HALF_WAY * BATCH)


@pytest.mark.case("O16")
def test_neither_secret_nor_text_is_in_anything_that_dagster_keeps(
    project: Installation, oracle: OracleService
) -> None:
    oracle.script = lambda number, texts: Reply.error(500, "model_failed") if number == 3 else None
    good = project.run(PARTITION)
    oracle.script = lambda number, texts: Reply.error(401, "not_allowed")
    project.environment["RBA_CORPUS"] = "again"
    bad = project.run(PARTITION)

    assert failures(good) == []
    assert "check EMBEDDING_API_KEY" in failures(bad)[0]
    home = Path(project.environment["DAGSTER_HOME"])
    files = [path for path in home.rglob("*") if path.is_file()]
    # The database of events among them: what is looked for stands there in clear text.
    assert any(b"effective_configuration" in path.read_bytes() for path in files)
    password = project.environment["RBA_DATABASE_URL"].split("@")[0].rpartition(":")[2]
    for path in files:
        content = path.read_bytes()
        for secret in (KEY, f":{password}@", f"{PHRASE} A-1-"):
            assert secret.encode() not in content, path


@pytest.mark.case("O2")
@pytest.mark.long
def test_a_killed_step_is_tried_again_and_goes_on_where_it_was(
    project: Installation, oracle: OracleService
) -> None:
    reached, gone = threading.Event(), threading.Event()

    def hold(number: int, texts: list[str]) -> None:
        if number == 4:
            reached.set()
            gone.wait(RUN_S)

    oracle.script = hold
    with project.launch(PARTITION) as run:
        assert reached.wait(RUN_S)
        # The one step that is under way; beside it is what keeps the count of semaphores.
        [step] = [
            child
            for child in psutil.Process(run.pid).children()
            if any("spawn_main" in word for word in child.cmdline())
        ]
        step.kill()
        gone.set()
        output, _ = run.communicate(timeout=RUN_S)

    assert run.returncode == 0, output
    with dg.DagsterInstance.get() as instance:
        [only] = instance.get_runs()
        retried = instance.all_logs(only.run_id, of_type=DagsterEventType.STEP_UP_FOR_RETRY)
    assert [entry.step_key for entry in retried] == ["embeddings"]
    results = project.run(PARTITION)
    assert failures(results) == []
    assert results[0].metadata["embeddings"]["embedded"] == 0
    check_invariants(project, oracle, results, resent=2 * BATCH * PARALLEL)


@pytest.mark.long
@pytest.mark.case("O9")
def test_a_run_in_one_process_ends_on_sigterm_and_is_not_tried_again(
    project: Installation, oracle: OracleService
) -> None:
    reached, gone = threading.Event(), threading.Event()

    def hold(number: int, texts: list[str]) -> None:
        # Every request from here on: the other in flight would make room for more.
        if number >= 4:
            reached.set()
            gone.wait(RUN_S)

    oracle.script = hold
    process = start(project)
    assert reached.wait(RUN_S)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=10)
    sent = len(oracle.sent)
    gone.set()

    with dg.DagsterInstance.get() as instance:
        [run] = instance.get_runs()
        retried = instance.all_logs(run.run_id, of_type=DagsterEventType.STEP_UP_FOR_RETRY)
    assert (run.status, retried) == (DagsterRunStatus.CANCELED, []), output
    results = project.run(PARTITION)
    assert failures(results) == []
    assert sent <= 4 + PARALLEL
    check_invariants(project, oracle, results, resent=2 * BATCH * PARALLEL)
