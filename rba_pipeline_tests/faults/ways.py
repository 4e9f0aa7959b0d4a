"""Every way to launch a run of one partition with values of its own, as its users have it.

What is launched goes on by itself, or in a process that is returned. What is refused at once raises
``Refused``, or ``BadSetting`` where the definitions themselves cannot be loaded. Both commands take
a run config as text and as a file, in the same way: each is given one of them.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import dagster as dg
import yaml

from rba_pipeline.definitions import build_defs
from rba_pipeline.schedules import MONTHLY, NIGHTLY
from rba_pipeline.sensors import CHANGED
from rba_pipeline.upkeep import BACKFILL_STALE
from rba_pipeline_tests.command_line import called
from rba_pipeline_tests.faults.live_dagster import IN_ONE_PROCESS, LiveDagster, Refused
from rba_pipeline_tests.installation import Installation, failures

Process = subprocess.Popen[str]
VARIABLES = {"timeout_s": "EMBEDDING_API_TIMEOUT"}
ASSETS = ("documents", "chunks", "embeddings", "vectors")


@dataclass(frozen=True, slots=True)
class Place:
    """Where it is launched: Dagster's processes, and the project that they and we work on."""

    live: LiveDagster
    project: Installation

    def with_variables(self, **variables: str) -> Installation:
        """Return the project as a process with these variables sees it."""
        return replace(self.project, environment={**self.project.environment, **variables})


Values = Mapping[str, Any]
Way = Callable[[Place, str, Values], Process | None]


def run_config(values: Values) -> dict[str, Any]:
    """Return what is written into the Launchpad; the run's steps stay in its own process."""
    return {"resources": {"embedding": {"config": dict(values)}}, **IN_ONE_PROCESS}


def launchpad(place: Place, key: str, values: Values) -> None:
    place.live.launch(key, run_config(values))


def materialize_dialog(place: Place, key: str, values: Values) -> None:
    place.live.launch_assets(ASSETS, key, run_config(values))


def job_backfill(place: Place, key: str, values: Values) -> None:
    place.live.backfill([key], run_config(values))


def asset_backfill(place: Place, key: str, values: Values) -> None:
    place.live.backfill_assets(ASSETS, [key], run_config(values))


def asset_materialize(place: Place, key: str, values: Values) -> Process:
    written = json.dumps(run_config(values))
    return _command(place, key, "dagster", "asset", "materialize", "--select", "*",
                    "--config-json", written)  # fmt: skip


def dg_launch(place: Place, key: str, values: Values) -> Process:
    file = place.project.folder / f"{key}.yaml"
    file.write_text(yaml.safe_dump(run_config(values)))
    return _command(place, key, "dg", "launch", "--assets", "*", "-c", str(file))


def backfill_command(place: Place, key: str, values: Values) -> None:
    options = [
        word
        for name, value in values.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    asked = called("backfill", "--partitions", key, "--detach", *options)
    if asked.exit_code != 0:
        raise Refused(asked.output)


def sensor(place: Place, key: str, values: Values) -> None:
    """Let the sensor look, as the daemon does, at a source in which only ``key`` changed."""
    repository = build_defs(_scheduled(place, values).settings).get_repository_def()
    with dg.build_sensor_context(
        instance=place.live.instance,
        repository_def=repository,
        sensor_name=CHANGED,
        resources=repository.get_top_level_resources(),
    ) as context:
        found = repository.get_sensor_def(CHANGED).evaluate_tick(context)
    _launch_only(place, key, found.run_requests or ())


def nightly(place: Place, key: str, values: Values) -> None:
    """Let the schedule begin in a night of the partition ``key``."""
    repository = build_defs(_scheduled(place, values).settings).get_repository_def()
    with dg.build_schedule_context(
        instance=place.live.instance,
        repository_def=repository,
        scheduled_execution_time=datetime(int(key[:4]), 6, 3, 16, tzinfo=UTC),
    ) as context:
        found = repository.get_schedule_def(NIGHTLY).evaluate_tick(context)
    _launch_only(place, key, found.run_requests or ())


def monthly(place: Place, key: str, values: Values) -> None:
    """Let the schedule's job judge a store in which only ``key`` is missing."""
    defs = build_defs(_scheduled(place, values).settings)
    repository = defs.get_repository_def()
    with dg.build_schedule_context(
        instance=place.live.instance,
        repository_def=repository,
        scheduled_execution_time=datetime(2024, 5, 31, 17, tzinfo=UTC),
    ) as context:
        [request] = repository.get_schedule_def(MONTHLY).evaluate_tick(context).run_requests or ()
    judged = defs.resolve_job_def(BACKFILL_STALE).execute_in_process(
        run_config=request.run_config, instance=place.live.instance, tags=dict(request.tags)
    )
    assert judged.success
    [backfill] = place.live.instance.get_backfills(limit=1)
    assert backfill.partition_names == [key]


def environment(place: Place, key: str, values: Values) -> None:
    variables = {
        VARIABLES.get(name, f"EMBEDDING_{name.upper()}"): str(value)
        for name, value in values.items()
    }
    assert failures(place.with_variables(**variables).run(key)) == []


# The first two find by themselves what there is to run: nothing else may be left to do then.
WAYS: Mapping[str, Way] = MappingProxyType(
    {
        "sensor": sensor,
        "monthly": monthly,
        "dagster asset materialize": asset_materialize,
        "dg launch": dg_launch,
        "rba-pipeline backfill": backfill_command,
        "Launchpad": launchpad,
        "Materialize dialog": materialize_dialog,
        "backfill of the job": job_backfill,
        "backfill of assets": asset_backfill,
        "nightly": nightly,
        "environment": environment,
    }
)


def _scheduled(place: Place, values: Values) -> Installation:
    return place.with_variables(RBA_SCHEDULED_RUN_CONFIG=json.dumps(run_config(values)))


def _launch_only(place: Place, key: str, requests: Any) -> None:
    assert [request.partition_key for request in requests] == [key]
    [request] = requests
    place.live.launch(key, dict(request.run_config), request.tags)


def _command(place: Place, key: str, name: str, *arguments: str) -> Process:
    script = str(Path(sys.executable).with_name(name))
    return subprocess.Popen(
        [script, *arguments, "--partition", key, "-m", "rba_pipeline.definitions"],
        cwd=place.project.folder,
        env={**os.environ, **place.project.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
