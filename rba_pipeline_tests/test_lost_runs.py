"""No run stays open whose processes are gone, and whoever looks for such runs goes on for ever."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterRunStatus
from dagster._core.events import EngineEventData
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin

from rba_pipeline.backfills import LOCATION, REPOSITORY
from rba_pipeline.code_server import serve
from rba_pipeline.core.errors import RbaError
from rba_pipeline.processes import Component
from rba_pipeline.supervision import watch
from rba_pipeline_tests.faults.database_proxy import DatabaseProxy, Fate

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
# The server for a test: goes on until there is a file.
WAIT_FOR_A_FILE = """
import pathlib, sys, time
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.02)
"""
IN_POSTGRES = "storage: {postgres: {postgres_url: {env: DAGSTER_POSTGRES_URL}}}\n"


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


def looked_after_by_a_container(end: Path, log: Path) -> None:
    with dg.DagsterInstance.get() as instance:
        serve(instance, [sys.executable, "-c", WAIT_FOR_A_FILE, str(end)], every_s=0.05)


def looked_after_by_up(end: Path, log: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", WAIT_FOR_A_FILE, str(end)])
    log.touch()
    with pytest.raises(RbaError, match="a server ended with status 0"):
        watch([Component("a server", log, 0, process)], every_s=0.05)


@pytest.mark.postgres
@pytest.mark.parametrize("look_after", [looked_after_by_a_container, looked_after_by_up])
def test_a_storage_that_is_away_for_a_while_ends_nothing(
    tmp_path: Path,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    look_after: Callable[[Path, Path], None],
) -> None:
    (tmp_path / "dagster.yaml").write_text(IN_POSTGRES)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", database_url)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with dg.DagsterInstance.get() as instance:
        lost = open_run(instance, ended.pid)
    asked: list[bytes] = []

    def away_twice(kind: bytes, content: bytes) -> Fate:
        if b"FROM runs" not in content:
            return Fate.PASSES
        asked.append(content)
        if len(asked) == 4:
            (tmp_path / "end").touch()
        return Fate.CUT if len(asked) <= 2 else Fate.PASSES

    with DatabaseProxy(database_url) as proxy:
        proxy.watch = away_twice
        monkeypatch.setenv("DAGSTER_POSTGRES_URL", proxy.url)
        look_after(tmp_path / "end", tmp_path / "log")

    told = capfd.readouterr().out
    assert told.count("no look for killed runs, Dagster's storage is away (") == 2
    assert f"{lost} is marked as failed, its places are free" in told
