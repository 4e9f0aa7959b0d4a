"""What runs by the clock: which partitions, with which values, and that nothing does unasked."""

import json
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from urllib.parse import urlsplit

import dagster as dg
import pytest
from dagster._core.definitions.schedule_definition import ScheduleExecutionData
from dagster._core.storage.tags import PARTITION_NAME_TAG

from rba_pipeline.core.errors import BadSetting
from rba_pipeline.definitions import build_defs, build_resources
from rba_pipeline.jobs import PUBLISH
from rba_pipeline.partitions import TIME_ZONE, partitions_by
from rba_pipeline.run_outcomes import failure_of
from rba_pipeline.schedules import MONTHLY, NIGHTLY, keys_of_night
from rba_pipeline.sensors import CHANGED
from rba_pipeline.settings import Settings
from rba_pipeline.upkeep import BACKFILL_STALE, TEN_MINUTES, backfill_stale_job
from rba_pipeline_tests.installation import Installation, failures
from rba_pipeline_tests.oracle_service import OracleService, cut

CONFIG = {
    "resources": {"embedding": {"config": {"preset": "cpu-prod", "batch_size": 3}}, "records": {}},
    "execution": {"config": {"in_process": {}}},
}
ENVIRONMENT = {"RBA_SCHEDULED_RUN_CONFIG": json.dumps(CONFIG)}


@pytest.fixture(autouse=True)
def named_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name a database that nobody connects to: without one, Dagster checks no run config."""
    monkeypatch.setenv("RBA_DATABASE_URL", "postgresql://127.0.0.1:9/none")


@pytest.fixture
def instance(
    fresh_dagster_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """Have an instance in which nothing has run: a schedule reaches it by its folder."""
    home = tmp_path / "home"
    shutil.copytree(fresh_dagster_home, home)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with dg.DagsterInstance.get() as found:
        yield found


def evaluated(name: str, moment: datetime, instance: dg.DagsterInstance) -> ScheduleExecutionData:
    repository = build_defs(Settings.read(ENVIRONMENT)).get_repository_def()
    with dg.build_schedule_context(
        instance=instance, scheduled_execution_time=moment, repository_def=repository
    ) as context:
        return repository.get_schedule_def(name).evaluate_tick(context)


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        pytest.param(datetime(2024, 6, 3, 16, tzinfo=UTC), ["2024-01-01"], id="winter"),
        pytest.param(
            datetime(2024, 12, 31, 15, tzinfo=UTC), ["2024-01-01", "2025-01-01"],
            id="new-year-in-sydney-but-not-in-utc",
        ),
        pytest.param(datetime(2024, 12, 30, 15, tzinfo=UTC), ["2024-01-01"], id="new-years-eve"),
        pytest.param(
            datetime(2025, 1, 6, 15, tzinfo=UTC), ["2024-01-01", "2025-01-01"], id="filed-late"
        ),
        pytest.param(datetime(2025, 1, 7, 15, tzinfo=UTC), ["2025-01-01"], id="a-week-later"),
    ],
)  # fmt: skip
def test_nightly_runs_the_partition_of_sydneys_day(
    instance: dg.DagsterInstance, moment: datetime, expected: list[str]
) -> None:
    found = evaluated(NIGHTLY, moment, instance)

    assert [each.partition_key for each in found.run_requests or ()] == expected
    assert [each.run_key for each in found.run_requests or ()] == expected
    for request in found.run_requests or ():
        assert request.run_config == CONFIG
        assert request.tags["rba/launched_by"] == NIGHTLY
        assert request.tags["dagster/max_retries"] == "1"


@pytest.mark.parametrize(
    ("grain", "day", "expected"),
    [
        pytest.param("month", date(2024, 3, 7), ["2024-02-01", "2024-03-01"], id="month"),
        pytest.param("quarter", date(2024, 3, 7), ["2024-01-01"], id="quarter"),
        pytest.param("year", date(1990, 1, 3), ["1990-01-01"], id="none-before-the-first"),
        pytest.param("year", date(1989, 6, 3), [], id="nothing-before-the-first"),
    ],
)
def test_a_new_partition_takes_the_one_before_along(
    grain: str, day: date, expected: list[str]
) -> None:
    assert keys_of_night(partitions_by(grain, 1990), day) == expected


def test_nightly_leaves_out_a_partition_that_has_a_run(instance: dg.DagsterInstance) -> None:
    instance.create_run_for_job(
        build_defs(Settings.read({})).resolve_job_def(PUBLISH),
        tags={PARTITION_NAME_TAG: "2024-01-01"},
        status=dg.DagsterRunStatus.STARTED,
    )

    found = evaluated(NIGHTLY, datetime(2024, 6, 3, 16, tzinfo=UTC), instance)

    assert not found.run_requests
    assert found.skip_message == "2024-01-01: a run waits or has not ended yet"


def test_monthly_judges_by_the_values_that_its_runs_have(instance: dg.DagsterInstance) -> None:
    found = evaluated(MONTHLY, datetime(2024, 5, 31, 17, tzinfo=UTC), instance)

    [request] = found.run_requests or ()
    assert request.run_config["resources"] == {"embedding": CONFIG["resources"]["embedding"]}
    assert request.run_config["ops"]["judge_partitions"]["config"] == {"source_only": False}
    assert request.tags["rba/launched_by"] == MONTHLY


def test_nothing_launches_by_itself_until_it_is_switched_on() -> None:
    repository = build_defs(Settings.read({"RBA_SENSOR_SECONDS": "60"})).get_repository_def()

    schedules = {each.name: each for each in repository.schedule_defs}
    sensor = repository.get_sensor_def(CHANGED)
    assert schedules.keys() == {NIGHTLY, MONTHLY}
    for schedule in schedules.values():
        assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
        assert schedule.execution_timezone == TIME_ZONE
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED
    assert sensor.minimum_interval_seconds == 60


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        pytest.param("RBA_SENSOR_SECONDS", "4", "5 to 86400", id="too-often"),
        pytest.param("RBA_SCHEDULED_RUN_CONFIG", "[", "neither YAML nor JSON", id="no-yaml"),
        pytest.param(
            "RBA_SCHEDULED_RUN_CONFIG", "{resources: null}", "resources is None", id="nothing"
        ),
        pytest.param(
            "RBA_SCHEDULED_RUN_CONFIG", "{resources: 5}", "resources is 5", id="a-number"
        ),
        pytest.param("RBA_SCHEDULED_RUN_CONFIG", "gpu", "as the Launchpad takes it", id="a-word"),
        pytest.param(
            "RBA_SCHEDULED_RUN_CONFIG", "{resources: {embedding: {config: {batch_size: 0}}}}",
            "batch_size=0: allowed is a whole number from 1 to 2048", id="out-of-range",
        ),
        pytest.param(
            "RBA_SCHEDULED_RUN_CONFIG", "{resources: {embedding: {config: {batches: 1}}}}",
            'unexpected config entry "batches"', id="unknown",
        ),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused_when_the_definitions_are_loaded(
    name: str, value: str, message: str
) -> None:
    with pytest.raises(BadSetting, match=message) as refused:
        build_defs(Settings.read({name: value}))

    assert name in str(refused.value)


@pytest.mark.postgres
def test_backfill_stale_starts_one_backfill_of_what_is_missing_or_stale(
    named_database: None, installation: Installation
) -> None:
    for year in (2011, 2012, 2013):
        installation.add(
            f"{year}.html", title=f"Of {year}", day=f"5 March {year}", paragraphs=["Rates rose."]
        )
    with installation.neighbours() as found:
        found.vector_store.migrate()
    assert failures(installation.run("2011-01-01", "2012-01-01")) == []
    installation.add("2011.html", title="Of 2011", day="5 March 2011", paragraphs=["Rates fell."])
    installation.environment |= ENVIRONMENT
    job = build_defs(installation.settings).resolve_job_def(BACKFILL_STALE)

    with dg.DagsterInstance.get() as instance:
        first = job.execute_in_process(instance=instance)
        again = job.execute_in_process(instance=instance)
        [backfill] = instance.get_backfills()

    assert first.success
    assert again.success
    assert backfill.partition_names == ["2013-01-01", "2011-01-01"]
    assert backfill.run_config == CONFIG
    assert backfill.tags == {"dagster/max_retries": "1", "rba/launched_by": BACKFILL_STALE}
    assert backfill.title == "2 missing or stale partitions"


def judging(installation: Installation) -> dg.JobDefinition:
    """Return the job, which tries again once, and at once."""
    with installation.neighbours() as found:
        found.vector_store.migrate()
    installation.add("a.html", title="A", day="5 May 2011", paragraphs=["Rates rose."])
    settings = installation.settings
    return backfill_stale_job(
        partitions_by(settings.grain, settings.first_year),
        build_resources(settings),
        {},
        dg.RetryPolicy(max_retries=1),
    )


@pytest.mark.postgres
def test_backfill_stale_waits_for_a_service_that_restarts(
    named_database: None, installation: Installation, oracle: OracleService
) -> None:
    job = judging(installation)
    oracle.crash()

    def restart() -> None:
        with listener:
            # The handshake's three tries of the first look.
            for _ in range(3):
                cut(listener.accept()[0])
        oracle.restart()

    listener = socket.create_server(("127.0.0.1", urlsplit(oracle.url).port or 0))
    restarting = threading.Thread(target=restart)
    restarting.start()
    with dg.DagsterInstance.get() as instance:
        result = job.execute_in_process(instance=instance)
        restarting.join()
        [backfill] = instance.get_backfills()

    assert len(result.filter_events(lambda event: event.is_step_restarted)) == 1
    assert backfill.partition_names == ["2011-01-01"]


def the_source_is_away(installation: Installation) -> None:
    installation.source.rename(installation.folder / "elsewhere")


def the_key_is_wrong(installation: Installation) -> None:
    os.environ["EMBEDDING_API_KEY"] = "wrong"


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("happens", "tries", "told"),
    [
        pytest.param(the_source_is_away, 2, "SourceUnavailable: ", id="what-may-pass"),
        pytest.param(the_key_is_wrong, 1, "NotAllowed: ", id="what-cannot"),
    ],
)
def test_backfill_stale_tries_again_what_may_pass_and_nothing_else(
    named_database: None,
    installation: Installation,
    happens: Callable[[Installation], None],
    tries: int,
    told: str,
) -> None:
    job = judging(installation)
    happens(installation)

    with dg.DagsterInstance.get() as instance:
        result = job.execute_in_process(instance=instance, raise_on_error=False)
        said = failure_of(instance, result.dagster_run)

    assert not result.success
    assert len(result.filter_events(lambda event: event.is_step_restarted)) == tries - 1
    assert said.startswith(f"judge_partitions: {told}")


def test_a_restart_of_some_minutes_costs_the_monthly_backfill_no_month() -> None:
    job = build_defs(Settings.read({})).resolve_job_def(BACKFILL_STALE)

    [node] = job.nodes
    assert node.definition.retry_policy is TEN_MINUTES
    assert TEN_MINUTES.max_retries * TEN_MINUTES.delay == 600
