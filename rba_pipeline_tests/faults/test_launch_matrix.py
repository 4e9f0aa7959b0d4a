"""One meaning everywhere: what a run config says is in force, whichever way the run is launched."""

import json
import math
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster import RunsFilter
from dagster._core.scheduler.instigation import TickStatus

from rba_pipeline.backfills import LAUNCHED_BY
from rba_pipeline.core.errors import BadSetting
from rba_pipeline.core.presets import Bounds, whole_number
from rba_pipeline.core.tuned import MeasuredService, TunedPreset
from rba_pipeline.resources.tuned_file import write_tuned
from rba_pipeline.run_outcomes import failure_of, metadata_of
from rba_pipeline.schedules import MONTHLY, NIGHTLY
from rba_pipeline.upkeep import BACKFILL_STALE
from rba_pipeline_tests.bad_values import BAD_VALUES, BadValue
from rba_pipeline_tests.faults.conftest import add_documents
from rba_pipeline_tests.faults.live_dagster import LiveDagster, Refused
from rba_pipeline_tests.faults.ways import WAYS, Place, run_config
from rba_pipeline_tests.installation import Installation
from rba_pipeline_tests.oracle_service import OracleService

pytestmark = [pytest.mark.postgres, pytest.mark.long, pytest.mark.timeout(300)]

OVERRIDES = {"preset": "cpu-prod", "batch_size": 5, "parallel_batches": 3}
# What each row sets, and what is then in force at a service on two cores.
ROWS: list[tuple[str, Mapping[str, Any], tuple[str, int, int]]] = [
    ("auto", {"preset": "auto"}, ("auto", 32, 8)),
    ("cpu-dev", {"preset": "cpu-dev"}, ("cpu-dev", 4, 2)),
    ("cpu-prod", {"preset": "cpu-prod"}, ("cpu-prod", 8, 4)),
    ("gpu", {"preset": "gpu"}, ("gpu", 32, 8)),
    ("tuned", {"preset": "tuned"}, ("tuned", 12, 3)),
    ("overrides", OVERRIDES, ("cpu-prod", 5, 3)),
]
MEASURED_AT = "2024-06-03T02:00:00+10:00"
TIMEOUT_S = 60
# The command has no option for everything that may stand in a run config.
OWN = {
    "no-time": {"rba-pipeline backfill": "No such option '--timeout-s'"},
    "no-field": {"rba-pipeline backfill": "No such option '--batchsize'"},
}
# Early enough for a partition of each cell.
FIRST_YEAR, LAST_YEAR = 1930, 2020


@pytest.fixture(scope="module")
def live_settings() -> dict[str, str]:
    """Leave everything but a deadline to presets and run configs."""
    return {
        "EMBEDDING_API_TIMEOUT": str(TIMEOUT_S),
        "RBA_FIRST_YEAR": str(FIRST_YEAR),
        "RBA_SCHEDULED_RUN_CONFIG": json.dumps(run_config(OVERRIDES)),
    }


@pytest.fixture
def place(live: LiveDagster, live_project: Installation, live_oracle: OracleService) -> Place:
    """Have an empty corpus and store, and a tuned preset."""
    tuned = TunedPreset(
        bounds=Bounds(12, 3),
        service=MeasuredService(live_oracle.space(), live_oracle.model, "cpu", 2),
        measured_at=MEASURED_AT,
        rate=100.0,
        why="nothing was faster",
    )
    write_tuned(live_project.settings.tuned_file, tuned)
    return Place(live, live_project)


@pytest.mark.parametrize(
    ("row", "values", "expected"),
    [pytest.param(at, *ROWS[at][1:], id=ROWS[at][0]) for at in range(len(ROWS))],
)
def test_every_way_of_launching_gives_a_run_the_same_configuration(
    place: Place, row: int, values: Mapping[str, Any], expected: tuple[str, int, int]
) -> None:
    # A partition for each cell: Dagster knows runs by it, also those of the rows before.
    years = dict(zip(WAYS, range(FIRST_YEAR + row * len(WAYS), 9999), strict=False))
    processes = []
    for way, launch in WAYS.items():
        add_documents(place.project, 1, [way.split()[-1]], year=years[way])
        process = launch(place, f"{years[way]}-01-01", values)
        if process is not None:
            processes.append(process)
    said = [process.communicate()[0] for process in processes]
    found = {way: effective(place.live, f"{year}-01-01") for way, year in years.items()}

    assert [process.returncode for process in processes] == [0] * len(processes), said
    preset, batch_size, parallel_batches = expected
    in_force = {
        "preset": preset,
        "batch_size": batch_size,
        "parallel_batches": parallel_batches,
        "timeout_s": TIMEOUT_S,
        "outage_s": 300,
        "adaptive": True,
        "backlog_batches": "0:8,100:16,1000:32",
        "truncate": False,
        "api_url": place.project.environment["EMBEDDING_API_URL"],
        **({"tuned_at": MEASURED_AT} if preset == "tuned" else {}),
    }
    assert found == dict.fromkeys(WAYS, in_force)


def effective(live: LiveDagster, key: str) -> Mapping[str, Any]:
    """Wait for the end of a partition's only run, and return what was in force in it."""

    def runs() -> list[dg.DagsterRun]:
        return list(live.instance.get_runs(RunsFilter(tags={"dagster/partition": key})))

    live.until(lambda: any(run.is_finished for run in runs()))
    [run] = runs()
    assert run.is_success, failure_of(live.instance, run)
    return dict(metadata_of(live.instance, run)["embeddings"]["effective_configuration"])


def test_the_daemon_launches_what_is_due_by_the_schedules_with_their_run_config(
    place: Place,
) -> None:
    live, missing = place.live, f"{LAST_YEAR}-01-01"
    with live.missed(NIGHTLY) as at:
        night = f"{at.year}-01-01"
        place.project.add(
            "night.html", title="Of that day", day=f"{at:%-d %B %Y}", paragraphs=["Rates rose."]
        )
        by_night = effective(live, night)
        ticks = [live.last_tick(NIGHTLY)]
    add_documents(place.project, 1, ["missing"], year=LAST_YEAR)
    with live.missed(MONTHLY):
        by_month = effective(live, missing)
        ticks.append(live.last_tick(MONTHLY))

    [nightly] = live.instance.get_runs(RunsFilter(tags={"dagster/partition": night}))
    [monthly] = live.instance.get_runs(RunsFilter(job_name=BACKFILL_STALE), limit=1)
    assert [tick and tick.status for tick in ticks] == [TickStatus.SUCCESS] * 2
    for run, schedule in ((nightly, NIGHTLY), (monthly, MONTHLY)):
        assert run.tags[LAUNCHED_BY] == run.tags["dagster/schedule_name"] == schedule
        assert run.tags["dagster/max_retries"] == "1"
    for in_force in (by_night, by_month):
        assert in_force.items() >= OVERRIDES.items()


@pytest.mark.parametrize(
    ("row", "bad"), [pytest.param(*each, id=each[1].name) for each in enumerate(BAD_VALUES)]
)
def test_every_way_of_launching_refuses_a_bad_value_with_the_same_message_before_any_work(
    place: Place, live_oracle: OracleService, row: int, bad: BadValue
) -> None:
    expected = dict.fromkeys(WAYS, bad.said) | OWN.get(bad.name, {})
    if bad.said_of_variable is None:
        del expected["environment"]
    elif bad.said_of_variable:
        expected["environment"] = bad.said_of_variable
    years = range(FIRST_YEAR + row * len(WAYS), 9999)
    asked, runs = live_oracle.asked, place.live.instance.get_runs_count()
    refusals = {
        way: refusal(place, way, f"{year}-01-01", bad.values)
        for way, year in zip(expected, years, strict=False)
    }
    said = {way: refused() for way, refused in refusals.items()}

    times = {way: told.count(expected[way]) for way, told in said.items()}
    assert times == dict.fromkeys(expected, 1), said
    assert place.live.instance.get_runs_count() == runs
    assert live_oracle.asked == asked


@pytest.mark.case("O10")
@pytest.mark.parametrize(
    "value",
    [
        pytest.param(-1, id="negative"),
        pytest.param(2**70, id="huge"),
        pytest.param(True, id="true-is-not-one"),
        pytest.param(1.5, id="fraction"),
        pytest.param("16", id="text"),
        pytest.param(math.nan, id="not-a-number"),
        pytest.param(math.inf, id="endless"),
        pytest.param(None, id="null"),
    ],
)
def test_the_launchpad_refuses_whatever_is_no_whole_number_in_range_before_any_work(
    place: Place, live_oracle: OracleService, value: object
) -> None:
    written = yaml.safe_dump(run_config({"batch_size": value}))
    asked, runs = live_oracle.asked, place.live.instance.get_runs_count()

    with pytest.raises(Refused) as refused:
        place.live.launch(f"{FIRST_YEAR}-01-01", written)

    shown = "null" if value is None else value
    said = f"batch_size={shown!r}: allowed is a {whole_number('batch_size')}"
    assert str(refused.value).count(said) == 1
    assert place.live.instance.get_runs_count() == runs
    assert live_oracle.asked == asked


def refusal(place: Place, way: str, key: str, values: Mapping[str, Any]) -> Callable[[], str]:
    """Launch, and return what waits for the refusal and returns its text."""
    try:
        process = WAYS[way](place, key, values)
    except (Refused, BadSetting) as error:
        told = str(error)
        return lambda: told
    if process is not None:
        return lambda: _of_process(process)
    [backfill] = place.live.instance.get_backfills(limit=1)
    return lambda: _of_backfill(place.live, backfill.backfill_id)


def _of_process(process: "subprocess.Popen[str]") -> str:
    told, _ = process.communicate()
    assert process.returncode != 0, told
    return told


def _of_backfill(live: LiveDagster, name: str) -> str:
    """Return why Dagster's daemon could not make the runs of a backfill."""

    def error() -> str | None:
        found = live.instance.get_backfill(name)
        assert found is not None
        # It is FAILING for half a minute before it is FAILED.
        return found.error.message if found.error else None

    live.until(lambda: error() is not None)
    return str(error())
