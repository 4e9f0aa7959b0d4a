"""The command ``rba-pipeline backfill``, what is done to it, and what Dagster and service say."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import requests
from dagster import DagsterEventType, DagsterRunStatus, RunsFilter
from dagster._core.execution.stats import StepEventStatus

from benchmarks.reports import progress
from rba_pipeline import processes
from rba_pipeline.core.errors import RbaError
from rba_pipeline.core.presets import BOUNDS_BY_PRESET, Preset
from rba_pipeline.jobs import PUBLISH
from rba_pipeline.processes import Component
from rba_pipeline_tests.faults.live_dagster import LiveDagster, key_of
from rba_pipeline_tests.survival.account import Line, equal, none_of
from rba_pipeline_tests.survival.parts import Parts

_STEP, _POOL = "embeddings", "embedding"
_ASSETS = ("documents", "chunks", "embeddings", "vectors")
_WITHIN_S = 3600
# Run monitoring looks every 30 s, and frees places 10 s after that; see dagster.yaml.
_NOTICED_S = 300
# One killed run may cost so many texts times batch size times requests in flight.
_AGAIN = 2


@dataclass(frozen=True, slots=True)
class Struck:
    """A backfill that was killed in the middle, and has ended.

    Attributes:
        keys: Its partitions.
        killed: The run that was killed.
        status: Of the last command.
        computed: Texts that the model was given for it.
        most_again: How many of them may have been given before.
    """

    keys: list[str]
    killed: str
    status: int
    computed: int
    most_again: int


def backfilled(parts: Parts, preset: str) -> Struck:
    """Run the command, kill daemon and run in the middle, and go on as its user would.

    Raises:
        RbaError: It ended before it was in the middle, or nothing happened for an hour.
    """
    before, dagster = _texts(parts), parts.dagster
    command = _start(parts, "--all", "--preset", preset)
    try:
        _until(command, lambda: bool(dagster.instance.get_backfills(limit=1)))
        [backfill] = dagster.instance.get_backfills(limit=1)
        name, keys = backfill.backfill_id, list(backfill.partition_names or ())
        progress(f"backfill {name} of {len(keys)} partitions: started")
        _until(command, lambda: _done(dagster, name) >= max(1, len(keys) // 3))
        _restart_daemon(command, dagster, name)
        _until(command, lambda: _done(dagster, name) >= len(keys) // 2)
        killed = _kill_a_run(command, parts, name)
        status = _ended(command)
        if status:
            command = _start(parts, "--all", "--preset", preset, "--only", "failed",
                             "--only", "missing")  # fmt: skip
            status = _ended(command)
    finally:
        processes.stop([command], 5)
    bounds = BOUNDS_BY_PRESET[Preset(preset)]
    most_again = _AGAIN * bounds.batch_size * bounds.parallel_batches
    return Struck(keys, killed, status, _texts(parts) - before, most_again)


def of_dagster(parts: Parts, struck: Struck) -> Iterator[Line]:
    """Yield what Dagster has to say of the backfill: every partition green, nothing left over."""
    instance, expected = parts.dagster.instance, set(struck.keys)
    runs = instance.get_runs(RunsFilter(job_name=PUBLISH))
    # Newest first.
    last = {key_of(run): run for run in reversed(runs)}
    found = parts.place.query("SELECT DISTINCT extract(year FROM published_on)::int FROM documents")
    filed = {f"{year}-01-01" for (year,) in found}
    yield equal("exit status of the command", struck.status, 0)
    yield equal("partitions = years with a document", len(filed), len(expected))
    yield none_of("partitions without a document", expected - filed)
    yield equal("partitions whose last run is green", _green(last.values()), len(expected))
    for name in _ASSETS:
        made = instance.get_materialized_partitions(dg.AssetKey(name)) & expected
        yield equal(f"partitions with {name}", len(made), len(expected))
    # One more for the run that was killed: nothing was launched twice.
    yield equal("runs", len(runs), len(expected) + 1)
    yield equal("runs that failed", [run.run_id for run in runs if run.is_failure], [struck.killed])
    yield none_of("runs that have not ended", [run.run_id for run in runs if not run.is_finished])
    yield none_of("places held in the pool", _held(parts.dagster))


def of_service(parts: Parts, struck: Struck) -> Iterator[Line]:
    """Yield how many texts were computed more often than needed."""
    needed = len({(row.year, row.text_hash) for row in parts.place.rows.values()})
    # Every step that begins to embed asks for the sentinel's vector.
    sentinels = sum(_steps_begun(parts.dagster.instance, run) for run in _runs(parts.dagster))
    again = struck.computed - needed - sentinels
    claim = f"texts computed again, of {struck.computed:,} ({sentinels} of them sentinels)"
    yield Line(claim, again, f"0 to {struck.most_again}", 0 <= again <= struck.most_again)


def _start(parts: Parts, *arguments: str) -> Component:
    """Start the command, as a user's shell would."""
    progress(f"$ rba-pipeline backfill {' '.join(arguments)}")
    return processes.start(
        "rba-pipeline backfill",
        [str(Path(sys.executable).with_name("rba-pipeline")), "backfill", *arguments],
        log=parts.folder / ".state" / "logs" / "backfill.log",
        cwd=parts.folder,
        environment=os.environ,
    )


def _ended(command: Component) -> int:
    """Wait for the command, show what it said, and return its exit status."""
    status = command.process.wait(_WITHIN_S)
    for line in command.logged().splitlines():
        progress(f"  | {line}")
    progress(f"exit status {status}")
    return status


def _restart_daemon(command: Component, dagster: LiveDagster, backfill: str) -> None:
    """Kill the daemon, and start another when the runs that it had started are over."""
    dagster.kill_daemon()
    progress(f"daemon killed; {_told(dagster, backfill)}")
    _until(command, lambda: not any(_is_open(run) for run in dagster.runs(backfill)))
    progress(f"its runs have ended; {_told(dagster, backfill)}")
    dagster.start_daemon()
    progress("daemon started again")


def _kill_a_run(command: Component, parts: Parts, backfill: str) -> str:
    """Kill a run that has kept some of its vectors and not all, and return its id."""
    dagster = parts.dagster
    struck: list[dg.DagsterRun] = []

    def strike() -> bool:
        for run in dagster.runs(backfill):
            if run.status is DagsterRunStatus.STARTED and _is_amid(parts, run):
                dagster.kill(run.run_id)
                struck.append(run)
                return True
        return False

    _until(command, strike)
    [run] = struck
    progress(f"run {run.run_id} of {key_of(run)} killed amid its {_STEP}")
    dagster.until(lambda: dagster.status(run.run_id).value == "FAILURE", _NOTICED_S)
    [step] = dagster.instance.get_run_step_stats(run.run_id, [_STEP])
    if step.status is StepEventStatus.SUCCESS:
        raise RbaError(f"the {_STEP} of run {run.run_id} had just ended: try again")
    progress("Dagster has noticed")
    return run.run_id


def _is_amid(parts: Parts, run: dg.DagsterRun) -> bool:
    """Return whether a run's step has begun, has not ended, and has kept a part of its vectors."""
    for step in parts.dagster.instance.get_run_step_stats(run.run_id, [_STEP]):
        if step.start_time is not None and step.end_time is None:
            kept = parts.place.store.glob(f"embeddings/*/*/{key_of(run)[:4]}/part-*.parquet")
            return any(part.stat().st_mtime > step.start_time for part in kept)
    return False


def _until(command: Component, condition: Callable[[], bool]) -> None:
    processes.wait_until(condition, command, _WITHIN_S)


def _done(dagster: LiveDagster, backfill: str) -> int:
    return _green(dagster.runs(backfill))


def _green(runs: Iterable[dg.DagsterRun]) -> int:
    return sum(run.is_success for run in runs)


def _is_open(run: dg.DagsterRun) -> bool:
    return run.status in (DagsterRunStatus.STARTING, DagsterRunStatus.STARTED)


def _told(dagster: LiveDagster, backfill: str) -> str:
    runs = dagster.runs(backfill)
    return f"{_green(runs)} partitions are green, {sum(map(_is_open, runs))} runs under way"


def _runs(dagster: LiveDagster) -> list[dg.DagsterRun]:
    return list(dagster.instance.get_runs(RunsFilter(job_name=PUBLISH)))


def _steps_begun(instance: dg.DagsterInstance, run: dg.DagsterRun) -> int:
    begun = instance.all_logs(run.run_id, of_type=DagsterEventType.STEP_START)
    return sum(entry.step_key == _STEP for entry in begun)


def _held(dagster: LiveDagster) -> list[str]:
    """Return the steps that hold a place in the pool, after waiting for it to be freed."""
    pool = dagster.instance.event_log_storage
    end = time.monotonic() + _NOTICED_S
    while (held := pool.get_concurrency_info(_POOL).claimed_slots) and time.monotonic() < end:
        time.sleep(1)
    return [str(each) for each in held]


def _texts(parts: Parts) -> int:
    """Return how many texts the service has computed since it was started."""
    place = parts.place
    answer = requests.get(
        f"{place.service_url}/metrics",
        headers={"Authorization": f"Bearer {place.service_key}"},
        timeout=30,
    )
    answer.raise_for_status()
    lines = (line.split() for line in answer.text.splitlines())
    return int(float(next(line[1] for line in lines if line[:1] == ["embedding_texts_total"])))
