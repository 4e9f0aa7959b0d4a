"""The server of a container's code location: no run stays open whose processes are gone."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterRunStatus
from dagster._core.events import EngineEventData
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin

from rba_pipeline.backfills import LOCATION, REPOSITORY
from rba_pipeline.code_server import serve

# The server for a test: kills the process of a run, and goes on until the run is seen as failed.
KILL_AND_WAIT = """
import os, signal, sys, time
import dagster as dg
os.kill(int(sys.argv[1]), signal.SIGKILL)
with dg.DagsterInstance.get() as instance:
    while instance.get_run_by_id(sys.argv[2]).status is not dg.DagsterRunStatus.FAILURE:
        time.sleep(0.05)
sys.exit(7)
"""
HANGING_S = 60


@dg.job
def nothing() -> None: ...


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """Have an instance in a folder, which is also that of processes started here."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as opened:
        yield opened


@pytest.fixture
def process() -> Iterator["subprocess.Popen[bytes]"]:
    started = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({HANGING_S})"])
    yield started
    started.kill()
    started.wait()


def open_run(instance: dg.DagsterInstance, pid: int, *, launched: bool = True) -> str:
    """Make a run that goes on in the process ``pid``, as far as Dagster knows."""
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(LOCATION), REPOSITORY)
    run = instance.create_run_for_job(
        nothing,
        status=DagsterRunStatus.STARTED,
        remote_job_origin=repository.get_job_origin("nothing") if launched else None,
    )
    instance.report_engine_event("started", run, EngineEventData.in_process(pid))
    return run.run_id


def test_runs_of_a_former_container_and_runs_that_are_killed_are_failed(
    instance: dg.DagsterInstance, process: "subprocess.Popen[bytes]"
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    lost, killed = open_run(instance, ended.pid), open_run(instance, process.pid)
    living = open_run(instance, os.getpid())
    elsewhere = open_run(instance, ended.pid, launched=False)

    status = serve(
        instance, [sys.executable, "-c", KILL_AND_WAIT, str(process.pid), killed], every_s=0.2
    )

    assert status == 7
    for run, expected in (
        (lost, DagsterRunStatus.FAILURE),
        (living, DagsterRunStatus.STARTED),
        (elsewhere, DagsterRunStatus.STARTED),
    ):
        found = instance.get_run_by_id(run)
        assert found is not None
        assert found.status is expected
