"""Dagster's processes as ``make up`` starts them, asked for runs as its web interface asks."""

import json
import os
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import dagster as dg
import psutil
import psycopg
import requests
from dagster import DagsterEventType, DagsterRunStatus, RunsFilter
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorTick,
    ScheduleInstigatorData,
)
from dagster._utils.schedules import reverse_cron_string_iterator
from psycopg import sql

from rba_pipeline import processes
from rba_pipeline.dagster_servers import DagsterServers, wait_for_daemon, wait_for_webserver
from rba_pipeline.jobs import PUBLISH
from rba_pipeline.materialise import PartitionResult
from rba_pipeline.partitions import TIME_ZONE
from rba_pipeline.processes import Component
from rba_pipeline.resources.ports import LOOPBACK, free_port
from rba_pipeline.resources.postgres import EmbeddedPostgres
from rba_pipeline.run_outcomes import failure_of, metadata_of
from rba_pipeline_tests.installation import ROOT, RUN_S, Installation

# All steps in the run's own process: a run then takes seconds.
IN_ONE_PROCESS = {"execution": {"config": {"in_process": {}}}}
_LOCATION = {"repositoryName": "__repository__", "repositoryLocationName": "rba_pipeline"}
_BACKFILL_TAG = "dagster/backfill"
_PARTITION_TAG = "dagster/partition"

_LAUNCH = """
mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  ... on RunConfigValidationInvalid { errors { message } } } }
"""
_BACKFILL = """
mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }
"""
_LAUNCH_SEVERAL = """
mutation ($list: [ExecutionParams!]!) { launchMultipleRuns(executionParamsList: $list) {
  __typename ... on LaunchMultipleRunsResult { launchMultipleRunsResult {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } } } } ... on PythonError { message } } }
"""
_TERMINATE = """
mutation ($run: String!) { terminateRun(runId: $run) { __typename } }
"""
_SWITCH = """
mutation ($sensor: SensorSelector!, $on: Boolean!) {
  startSensor(sensorSelector: $sensor) @include(if: $on) { __typename }
  resetSensor(sensorSelector: $sensor) @skip(if: $on) { __typename } }
"""
_SWITCH_SCHEDULE = """
mutation ($schedule: ScheduleSelector!, $on: Boolean!) {
  startSchedule(scheduleSelector: $schedule) @include(if: $on) { __typename }
  resetSchedule(scheduleSelector: $schedule) @skip(if: $on) { __typename } }
"""
_SHOWN = """
query ($repository: RepositorySelector!, $job: PipelineSelector!, $runs: [String]) {
  allTopLevelResourceDetailsOrError(repositorySelector: $repository) { ... on ResourceDetailsList {
    results { name configuredValues { key value } configFields { name defaultValueAsJson } } } }
  runConfigSchemaOrError(selector: $job) { ... on RunConfigSchema { rootDefaultYaml } }
  runsOrError(filter: {runIds: $runs}) { ... on Runs { results {
    runConfigYaml tags { key value } eventConnection { events {
      ... on MessageEvent { message }
      ... on MaterializationEvent { metadataEntries {
        label ... on TextMetadataEntry { text } ... on JsonMetadataEntry { jsonString }
        ... on MarkdownMetadataEntry { mdStr } ... on UrlMetadataEntry { url } } }
      ... on ExecutionStepFailureEvent { error { message stack causes { message stack } } }
    } } } } }
}
"""


_NO_TAGS: Mapping[str, str] = MappingProxyType({})


class Refused(Exception):
    """Dagster launches nothing; the text is what its web interface shows."""


class LiveDagster:
    """Code server, daemon and web interface over the instance of DAGSTER_HOME.

    They and the runs, which are children of the code server, get this process' environment.
    """

    def __init__(self, root: Path, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self._components: list[Component] = []
        self._servers = DagsterServers(root, self._components.append)
        self._port = free_port(0)

    def start(self) -> None:
        """Start all three and wait until they are ready."""
        self._servers.recover_lost_runs()
        self._components.clear()
        self._servers.start_code_server()
        (self._code_server,) = self._components
        webserver = self._servers.start_webserver(self._port)
        self.start_daemon()
        wait_for_webserver(webserver, self._port)

    def start_daemon(self) -> None:
        """Start a daemon and wait until it is ready."""
        self._daemon = self._servers.start_daemon()
        wait_for_daemon(self._daemon)

    def kill_daemon(self) -> None:
        """Let the daemon crash; its runs go on."""
        self._components.remove(self._daemon)
        os.killpg(self._daemon.process.pid, signal.SIGKILL)
        self._daemon.process.wait()

    def stop(self) -> None:
        """Stop everything, runs among it."""
        processes.stop(self._components, grace_s=6)

    def until(self, condition: Callable[[], bool], deadline_s: float = RUN_S) -> None:
        """Wait until ``condition()``: Dagster tells of its state only if asked."""
        processes.wait_until(condition, self._code_server, deadline_s)

    def launch(
        self,
        key: str,
        config: dict[str, Any] | str | None = None,
        tags: Mapping[str, str] = _NO_TAGS,
    ) -> str:
        """Put a run of the whole job into the queue, and return its id.

        Args:
            config: As text it is YAML, which is what the Launchpad sends.

        Raises:
            Refused: Dagster does not take it.
        """
        params = _params({"pipelineName": PUBLISH}, key, config or {}, tags)
        return _run_id(self._ask(_LAUNCH, params=params)["launchRun"])

    def launch_assets(self, names: Sequence[str], key: str, config: dict[str, Any]) -> str:
        """Do the same for assets, as the page of the asset graph does."""
        selection = [{"path": [name]} for name in names]
        selector = {"pipelineName": "__ASSET_JOB", "assetSelection": selection}
        return _first_run_id(self._ask(_LAUNCH_SEVERAL, list=[_params(selector, key, config)]))

    def backfill(self, keys: Sequence[str], config: dict[str, Any] = IN_ONE_PROCESS) -> str:
        """Begin a backfill of the whole job, each run in one process, and return its id."""
        selector = {
            "partitionSetName": f"{PUBLISH}_partition_set",
            "repositorySelector": _LOCATION,
        }
        return self._backfill(selector=selector, partitionNames=keys, runConfigData=config)

    def backfill_assets(
        self, names: Sequence[str], keys: Sequence[str], config: dict[str, Any]
    ) -> str:
        """Do the same for assets, as the page of the asset graph does."""
        selection = [{"path": [name]} for name in names]
        return self._backfill(assetSelection=selection, partitionNames=keys, runConfigData=config)

    def _backfill(self, **params: Any) -> str:
        asked = self._ask(_BACKFILL, params=params)["launchPartitionBackfill"]
        if "backfillId" not in asked:
            raise Refused(str(asked))
        return str(asked["backfillId"])

    def terminate(self, run_id: str) -> None:
        """Ask for the end of a run as the web interface's button does."""
        assert self._ask(_TERMINATE, run=run_id)["terminateRun"]["__typename"] == (
            "TerminateRunSuccess"
        )

    def shown(self, *run_ids: str) -> str:
        """Return what the web interface is told of these runs, of our resources and values."""
        job = {**_LOCATION, "pipelineName": PUBLISH}
        return json.dumps(self._ask(_SHOWN, repository=_LOCATION, job=job, runs=run_ids))

    def switch(self, sensor: str, *, on: bool) -> None:
        """Switch a sensor on, or to off, which is how our definitions have it."""
        [answer] = self._ask(_SWITCH, sensor={**_LOCATION, "sensorName": sensor}, on=on).values()
        assert answer["__typename"] == "Sensor"

    @contextmanager
    def missed(self, schedule: str) -> Iterator[datetime]:
        """Have a schedule on, since before its last time, at which there was no daemon; then, off.

        The daemon that starts now makes up for it. Yields that time.
        """
        selector = {**_LOCATION, "scheduleName": schedule}
        # One that is there would note that it was not on then.
        self.kill_daemon()
        self._ask(_SWITCH_SCHEDULE, schedule=selector, on=True)
        try:
            state = self._state(schedule)
            assert state is not None
            data = state.instigator_data
            assert isinstance(data, ScheduleInstigatorData)
            at = next(reverse_cron_string_iterator(time.time(), data.cron_schedule, TIME_ZONE))
            before = data._replace(start_timestamp=at.timestamp() - 1)
            self.instance.update_instigator_state(state.with_data(before))
            self.start_daemon()
            yield at
        finally:
            self._ask(_SWITCH_SCHEDULE, schedule=selector, on=False)

    def last_tick(self, name: str) -> InstigatorTick | None:
        """Return the newest evaluation of a sensor or schedule, which may be under way."""
        if (state := self._state(name)) is None:
            return None
        ticks = self.instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)
        return next(iter(ticks), None)

    def _state(self, name: str) -> InstigatorState | None:
        """Return what Dagster keeps of a sensor or schedule that was switched on once."""
        states = self.instance.all_instigator_state()
        return next((each for each in states if each.instigator_name == name), None)

    def _ask(self, query: str, **variables: Any) -> dict[str, Any]:
        answer = requests.post(
            f"http://{LOOPBACK}:{self._port}/graphql",
            json={"query": query, "variables": variables},
            timeout=30,
        ).json()
        assert "errors" not in answer, answer
        return dict(answer["data"])

    def status(self, run_id: str) -> DagsterRunStatus:
        return self._run(run_id).status

    def of(self, *run_ids: str) -> list[dg.DagsterRun]:
        """Return these runs as they are now."""
        return [self._run(run_id) for run_id in run_ids]

    def runs(self, backfill: str) -> list[dg.DagsterRun]:
        """Return the runs that the backfill has made so far."""
        return list(self.instance.get_runs(RunsFilter(tags={_BACKFILL_TAG: backfill})))

    def results(self, backfill: str, count: int, deadline_s: float) -> list[PartitionResult]:
        """Return the result of each run, once ``count`` of them have ended, in order of keys."""
        self.until(lambda: sum(run.is_finished for run in self.runs(backfill)) == count, deadline_s)
        found = [result_of(self.instance, run) for run in self.runs(backfill)]
        return sorted(found, key=lambda result: result.key)

    def kill(self, run_id: str) -> None:
        """End the processes of a run as a crash would."""
        worker = self.worker(run_id)
        for process in [worker, *worker.children(recursive=True)]:
            process.kill()

    def worker(self, run_id: str) -> psutil.Process:
        """Return the process of a run that has begun: the child of the code server."""
        for record in self.instance.get_records_for_run(
            run_id, of_type=DagsterEventType.ENGINE_EVENT
        ).records:
            event = record.event_log_entry.dagster_event
            pid = event.engine_event_data.metadata.get("pid") if event else None
            if pid is not None:
                return psutil.Process(int(str(pid.value)))
        raise AssertionError(f"run {run_id} has named no process")

    def _run(self, run_id: str) -> dg.DagsterRun:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run


def _params(
    selector: dict[str, Any],
    key: str,
    config: dict[str, Any] | str,
    tags: Mapping[str, str] = _NO_TAGS,
) -> dict[str, Any]:
    told = {**tags, _PARTITION_TAG: key}
    return {
        "selector": {**_LOCATION, **selector},
        "runConfigData": config,
        "mode": "default",
        "executionMetadata": {"tags": [{"key": name, "value": told[name]} for name in told]},
    }


def _run_id(answer: dict[str, Any]) -> str:
    if "run" not in answer:
        told = [each["message"] for each in answer.get("errors", [answer])]
        raise Refused("\n".join(told))
    return str(answer["run"]["runId"])


def _first_run_id(answer: dict[str, Any]) -> str:
    told = answer["launchMultipleRuns"]
    return _run_id(told["launchMultipleRunsResult"][0] if "message" not in told else told)


def result_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> PartitionResult:
    """Return what Dagster keeps of a run that has ended, whoever ran it."""
    stats = instance.get_run_stats(run.run_id)
    # A run that goes on after another has only the steps that the other one did not end.
    parent = instance.get_run_by_id(run.parent_run_id) if run.parent_run_id else None
    earlier = metadata_of(instance, parent) if parent else {}
    return PartitionResult(
        key=key_of(run),
        run_id=run.run_id,
        started=stats.start_time or 0.0,
        ended=stats.end_time or 0.0,
        metadata=earlier | metadata_of(instance, run),
        embedding_open_s=0.0,
        failure=None if run.is_success else failure_of(instance, run),
    )


def key_of(run: dg.DagsterRun) -> str:
    """Return the partition of a run."""
    return run.tags[_PARTITION_TAG]


def make_project(folder: Path, postgres: EmbeddedPostgres) -> Installation:
    """Make a project folder with our dagster.yaml, and two databases for it."""
    made = Installation(folder)
    (folder / "home").mkdir()
    (folder / "home" / "dagster.yaml").symlink_to(ROOT / "dagster.yaml")
    (folder / ".state").mkdir()
    shutil.copy(ROOT / "workspace.yaml", folder)
    names = [f"live_{secrets.token_hex(4)}" for _ in range(2)]
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        for name in names:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    made.environment |= {
        "DAGSTER_HOME": str(folder / "home"),
        "DAGSTER_POSTGRES_URL": postgres.url(names[0]),
        "RBA_DATABASE_URL": postgres.url(names[1]),
        "RBA_SOURCE": str(made.source),
        "RBA_CORPUS": "publications",
        "RBA_STORE": str(folder / "store"),
        "PYTHONPATH": str(ROOT),
    }
    return made


def empty(project: Installation) -> None:
    """Leave no publication and no record, and a database with our schema and nothing else."""
    for folder in (project.source, project.folder / "store"):
        shutil.rmtree(folder, ignore_errors=True)
    project.source.mkdir()
    with psycopg.connect(project.environment["RBA_DATABASE_URL"], autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    with project.neighbours() as found:
        found.vector_store.migrate()
