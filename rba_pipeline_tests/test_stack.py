"""The stack as processes: what a user sees of ``up``, and what is left when something is killed."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from rba_pipeline import local_env
from rba_pipeline.resources.ports import free_port, somebody_listens
from rba_pipeline_tests.installation import DAGSTER
from rba_pipeline_tests.stack_project import (
    Up,
    free_ports,
    make_project,
    processes_of,
    python_in,
    run_in,
    stop_database,
    wait_for_none_of,
)

USE_BOTH = """
import json, os
from rba_pipeline import stack
with stack.database() as urls, stack.service(os.environ.get("EMBEDDING_MODEL")) as service:
    print(json.dumps({
        "attached": service.attached, "url": service.url, "dagster": urls.dagster,
        "set": os.environ["EMBEDDING_API_URL"] == service.url,
    }))
"""

COUNT_RUNS = """
import dagster as dg
from rba_pipeline import stack
with stack.database(), dg.DagsterInstance.get() as instance:
    print(sorted(run.status.value for run in instance.get_runs()))
"""

LEAVE_A_LOST_AND_A_LIVING_RUN = """
import os, subprocess, sys
import dagster as dg
from dagster import DagsterEvent, DagsterEventType, DagsterRunStatus
from dagster._core.events import EngineEventData
from rba_pipeline import stack
from rba_pipeline.lost_runs import fail_lost_runs

ended = subprocess.Popen([sys.executable, "-c", ""])
ended.wait()

@dg.job
def nothing(): ...

def open_run(instance, pid):
    run = instance.create_run_for_job(nothing, status=DagsterRunStatus.STARTED)
    instance.report_engine_event("started", run, EngineEventData.in_process(pid))
    return run.run_id

with stack.database(), dg.DagsterInstance.get() as instance:
    lost, living = open_run(instance, ended.pid), open_run(instance, os.getpid())
    failed = fail_lost_runs(instance)
    assert failed == [lost], failed
    print(instance.get_run_by_id(lost).status.value, instance.get_run_by_id(living).status.value)
"""


@pytest.fixture
def root() -> Iterator[Path]:
    with TemporaryDirectory(prefix="rba stack ") as private:
        root = make_project(Path(private))
        try:
            yield root
        finally:
            stop_database(root)


@pytest.mark.postgres
@pytest.mark.slow
def test_up_serves_other_commands_and_ends_on_one_interrupt(root: Path) -> None:
    ports = free_ports(root)

    with Up(root) as up:
        said = up.said_until("ready")
        dagster = run_in(
            root, DAGSTER, "asset", "materialize", "-m", "tiny_definitions", "--select", "quick"
        )
        beside = python_in(root, USE_BOTH)
        another_model = python_in(root, USE_BOTH, EMBEDDING_MODEL="another")
        second = python_in(root, "from rba_pipeline import stack; stack.up(None)")
        runs = python_in(root, COUNT_RUNS)
        still_there = [somebody_listens(port) for port in ports.values()]
        up.signal(signal.SIGINT)
        status, errors = up.ended(15)

    assert [line.split("  ")[0] for line in said] == [
        "database", "embedding service", "daemon", "web interface", "ready",
    ]  # fmt: skip
    assert dagster.returncode == 0, dagster.stderr
    assert json.loads(beside.stdout)["attached"]
    assert json.loads(beside.stdout)["set"]
    assert not json.loads(another_model.stdout)["attached"]
    assert f"runs in this folder already: http://127.0.0.1:{ports['web']}" in second.stderr
    assert runs.stdout.strip() == "['SUCCESS']"
    assert all(still_there)
    assert (status, errors) == (0, "")
    assert processes_of(root) == {}
    assert not any(somebody_listens(port) for port in ports.values())


@pytest.mark.postgres
@pytest.mark.slow
@pytest.mark.long
def test_a_component_that_dies_ends_up_with_its_name_and_log(root: Path) -> None:
    free_ports(root)

    with Up(root) as up:
        up.said_until("ready")
        daemon = next(pid for pid, line in processes_of(root).items() if "dagster-daemon" in line)
        os.kill(daemon, signal.SIGKILL)
        status, errors = up.ended()

    assert status == 1
    assert "daemon ended with status -9" in errors
    assert "Instance is configured" in errors
    assert processes_of(root) == {}


@pytest.mark.postgres
@pytest.mark.slow
@pytest.mark.long
def test_a_killed_up_takes_its_children_with_it_and_the_next_one_starts(root: Path) -> None:
    ports = free_ports(root)

    with Up(root) as up:
        up.said_until("ready")
        up.signal(signal.SIGKILL)
        up.ended()
        left = wait_for_none_of(root, 20)
        database_stays = somebody_listens(ports["database"])
    with Up(root) as again:
        said = again.said_until("ready")
        again.signal(signal.SIGTERM)
        status, _ = again.ended()

    assert left == {}
    assert database_stays
    assert any(f":{ports['web']}" in line for line in said)
    assert status == 0
    assert not somebody_listens(ports["database"])


@pytest.mark.postgres
@pytest.mark.long
def test_taken_ports_are_replaced_and_written_to_the_env_file(root: Path) -> None:
    free_ports(root)
    web = free_port(12200)
    with Up(root) as up:
        up.said_until("embedding service")
        wanted = local_env.written(root)
        with TemporaryDirectory() as private:
            other = make_project(Path(private))
            local_env.read(other)
            local_env.update(
                other,
                {
                    name: wanted[name]
                    for name in ("EMBEDDING_API_URL", "RBA_DATABASE_URL", "DAGSTER_POSTGRES_URL")
                },
            )
            beside = python_in(other, USE_BOTH)
            stop_database(other)

    told = json.loads(beside.stdout)
    assert told["url"] != wanted["EMBEDDING_API_URL"]
    assert told["dagster"] != wanted["DAGSTER_POSTGRES_URL"]
    assert wanted["RBA_WEBSERVER_PORT"] == str(web)


@pytest.mark.postgres
def test_a_service_that_does_not_start_is_an_error_with_the_end_of_its_log(root: Path) -> None:
    free_ports(root)

    tried = python_in(root, USE_BOTH, EMBEDDING_MODEL="broken")

    assert tried.returncode != 0
    assert "ended while starting" in tried.stderr
    assert "there is no model named broken" in tried.stderr
    assert processes_of(root) == {}


@pytest.mark.postgres
def test_only_a_run_whose_processes_are_gone_counts_as_lost(root: Path) -> None:
    free_ports(root)

    done = python_in(root, LEAVE_A_LOST_AND_A_LIVING_RUN)

    assert done.stdout.split() == ["FAILURE", "STARTED"], done.stderr


def test_a_database_of_the_users_own_is_taken_as_it_is(root: Path) -> None:
    url = "postgresql://me:x@db.example/rba"

    done = python_in(
        root,
        "from rba_pipeline import stack\nwith stack.database() as urls: print(urls.rba)",
        RBA_DATABASE_URL=url,
        DAGSTER_POSTGRES_URL=url,
    )

    assert done.stdout.strip() == url, done.stderr
    assert not (root / ".state" / "postgres").exists()
