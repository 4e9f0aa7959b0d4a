"""A run is killed at every point where it leaves something behind, and run again: all is well."""

import signal
import subprocess
import threading

import psycopg
import pytest

from rba_pipeline.resources.locks import lock_key
from rba_pipeline_tests.faults.conftest import IN_FLIGHT, PARTITION
from rba_pipeline_tests.faults.database_proxy import DatabaseProxy, Fate, Sees, copying_into, query
from rba_pipeline_tests.faults.invariants import (
    check_invariants,
    check_message,
    check_nothing_is_held,
    check_nothing_is_left_over,
)
from rba_pipeline_tests.faults.runs import start
from rba_pipeline_tests.installation import RUN_S, Installation, failures
from rba_pipeline_tests.oracle_service import OracleService
from rba_pipeline_tests.resources.publishing import wait_for_a_waiting_lock

pytestmark = [pytest.mark.postgres, pytest.mark.case("O1")]

LONG = pytest.mark.long


def assert_killed_then_well(
    project: Installation, oracle: OracleService, process: "subprocess.Popen[str]"
) -> None:
    output, _ = process.communicate(timeout=RUN_S)
    assert process.returncode == -signal.SIGKILL, output
    check_message(output)
    # With the process go its sessions, and the locks that they had.
    check_nothing_is_left_over(project, oracle)
    oracle.script = lambda number, texts: None

    results = project.run(PARTITION)

    assert failures(results) == []
    check_invariants(project, oracle, results, resent=IN_FLIGHT)


@pytest.mark.parametrize(
    "gate",
    [
        pytest.param(("os.rename", "/catalogue", "1"), id="before-the-catalogue", marks=LONG),
        pytest.param(("os.rename", "/documents/", "1"), id="before-the-documents", marks=LONG),
        pytest.param(("os.rename", "/chunks/", "1"), id="before-the-chunks", marks=LONG),
        pytest.param(("open", "canary", "1"), id="before-the-canary-is-written", marks=LONG),
        pytest.param(("os.rename", "canary", "1"), id="before-the-canary-is-there", marks=LONG),
        pytest.param(("open", "/part-", "1"), id="before-the-first-part-is-written", marks=LONG),
        pytest.param(("os.rename", "/part-", "1"), id="before-the-first-part-is-there"),
        pytest.param(("os.rename", "/part-", "2"), id="before-the-second-part", marks=LONG),
        pytest.param(("os.remove", "/part-", "1"), id="after-merging-before-removing", marks=LONG),
        pytest.param(("os.remove", "/part-", "2"), id="between-removing-parts", marks=LONG),
        pytest.param(("open", "/outcomes/", "1"), id="before-outcomes-are-written", marks=LONG),
        pytest.param(("os.rename", "/outcomes/", "1"), id="before-outcomes-are-there", marks=LONG),
    ],
)  # fmt: skip
def test_at_an_operation_of_the_record(
    project: Installation, oracle: OracleService, gate: tuple[str, ...]
) -> None:
    assert_killed_then_well(project, oracle, start(project, *gate))


@pytest.mark.parametrize(
    ("number", "adaptive"),
    [
        pytest.param(0, "false", id="first-request", marks=LONG),
        pytest.param(1, "false", id="second-request", marks=LONG),
        pytest.param(1, "true", id="second-request-at-its-own-pace", marks=LONG),
        pytest.param(4, "false", id="fifth-request", marks=LONG),
        pytest.param(4, "true", id="fifth-request-at-its-own-pace", marks=LONG),
        pytest.param(7, "false", id="eighth-request", marks=LONG),
    ],
)
def test_while_the_service_holds_a_request(
    project: Installation, oracle: OracleService, number: int
) -> None:
    reached, gone = threading.Event(), threading.Event()

    def hold(arrived: int, texts: list[str]) -> None:
        if arrived == number:
            reached.set()
            gone.wait(RUN_S)

    oracle.script = hold
    process = start(project)
    assert reached.wait(RUN_S)
    check_nothing_is_held(project)
    process.kill()
    process.wait(RUN_S)
    gone.set()

    assert_killed_then_well(project, oracle, process)


@pytest.mark.parametrize(
    ("sees", "fate"),
    [
        pytest.param(query(b"DELETE FROM quarantine"), Fate.LOST,
                     id="before-the-quarantine-is-replaced", marks=LONG),
        pytest.param(query(b"pg_try_advisory_xact_lock"), Fate.LOST, id="before-the-lock",
                     marks=LONG),
        pytest.param(query(b"COPY staged_documents"), Fate.LOST, id="before-the-first-copy",
                     marks=LONG),
        pytest.param(copying_into(b"staged_chunks"), Fate.LOST, id="in-the-copy-of-chunks",
                     marks=LONG),
        pytest.param(copying_into(b"staged_vectors"), Fate.LOST, id="in-the-copy-of-vectors",
                     marks=LONG),
        pytest.param(query(b"INSERT INTO vectors"), Fate.LOST, id="before-rows-are-inserted",
                     marks=LONG),
        pytest.param(query(b"INSERT INTO published_documents"), Fate.LOST,
                     id="after-rows-are-inserted", marks=LONG),
        pytest.param(query(b"COMMIT"), Fate.LOST, id="before-the-commit"),
        pytest.param(query(b"COMMIT"), Fate.UNANSWERED, id="after-the-commit-before-its-answer",
                     marks=LONG),
    ],
)  # fmt: skip
def test_at_a_message_to_the_database(
    project: Installation,
    oracle: OracleService,
    sees: Sees,
    fate: Fate,
) -> None:
    direct = project.environment["RBA_DATABASE_URL"]
    reached, begun = threading.Event(), threading.Event()
    # A commit is only of interest once something was staged.
    if not sees(b"Q", b"COMMIT"):
        begun.set()

    def watch(kind: bytes, content: bytes) -> Fate:
        if query(b"COPY staged_documents")(kind, content):
            begun.set()
        if begun.is_set() and not reached.is_set() and sees(kind, content):
            reached.set()
            return fate
        return Fate.PASSES

    with DatabaseProxy(direct) as proxy:
        proxy.watch = watch
        project.environment["RBA_DATABASE_URL"] = proxy.url
        process = start(project)
        assert reached.wait(RUN_S)
        if fate is Fate.UNANSWERED:
            assert proxy.answer_lost.wait(RUN_S)
        process.kill()
        process.wait(RUN_S)
    project.environment["RBA_DATABASE_URL"] = direct

    assert_killed_then_well(project, oracle, process)


@LONG
def test_while_it_waits_in_line_behind_another_publication(
    project: Installation, oracle: OracleService
) -> None:
    url = project.environment["RBA_DATABASE_URL"]
    reached = threading.Event()
    oracle.script = lambda number, texts: reached.set()
    with psycopg.connect(url) as holder:
        key = lock_key("corpus", project.environment["RBA_CORPUS"])
        holder.execute("SELECT pg_advisory_xact_lock(%s)", [key])
        process = start(project)
        assert reached.wait(RUN_S)
        wait_for_a_waiting_lock(url)
        process.kill()
        process.wait(RUN_S)
    # The server sees that the killed run is gone when it would have its turn.

    assert_killed_then_well(project, oracle, process)
    # All was embedded before it stood in line.
    assert len(oracle.texts_sent) == len(set(oracle.texts_sent))
