"""The sensor asks for exactly the partitions that changed, whatever happens between two looks."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import dagster as dg
import pytest
from dagster._core.definitions.sensor_definition import SensorExecutionData
from dagster._core.storage.tags import PARTITION_NAME_TAG

from rba_pipeline.definitions import build_defs
from rba_pipeline.jobs import PUBLISH
from rba_pipeline.sensors import CHANGED, MOST_RUNS
from rba_pipeline.upkeep import BACKFILL_STALE
from rba_pipeline_tests.installation import Installation, failures

pytestmark = pytest.mark.postgres

CONFIG = {"resources": {"embedding": {"config": {"preset": "cpu-prod", "batch_size": 3}}}}


@dataclass
class Watched:
    """A corpus with the sensor over it, and its cursor as Dagster keeps it."""

    installation: Installation
    instance: dg.DagsterInstance
    cursor: str | None = None

    def add(self, name: str, day: str, text: str = "Rates rose.") -> None:
        self.installation.add(f"{name}.html", title=f"Of {name}", day=day, paragraphs=[text])

    def look(self, *, crash: bool = False) -> SensorExecutionData:
        """Evaluate the sensor; a daemon that crashes then forgets what came of it."""
        repository = build_defs(self.installation.settings).get_repository_def()
        # As the code server does it.
        with dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            repository_def=repository,
            sensor_name=CHANGED,
            resources=repository.get_top_level_resources(),
        ) as context:
            found = repository.get_sensor_def(CHANGED).evaluate_tick(context)
        if not crash:
            self.cursor = found.cursor
        return found

    def asked(self) -> list[str]:
        """Evaluate the sensor, and return the partitions that it asks for."""
        return [str(each.partition_key) for each in self.look().run_requests or ()]

    def run(self, *keys: str) -> None:
        assert failures(self.installation.run(*keys)) == []

    def begun(self, key: str) -> dg.DagsterRun:
        """Have a run of the partition that has not ended."""
        return self.instance.create_run_for_job(
            build_defs(self.installation.settings).resolve_job_def(PUBLISH),
            tags={PARTITION_NAME_TAG: key},
            status=dg.DagsterRunStatus.STARTED,
        )


@pytest.fixture
def watched(installation: Installation) -> Iterator[Watched]:
    """Have an empty corpus, and a database with our schema."""
    with installation.neighbours() as found:
        found.vector_store.migrate()
    with dg.DagsterInstance.get() as instance:
        yield Watched(installation, instance)


@pytest.fixture
def published(watched: Watched) -> Watched:
    """Have a document in each of three partitions published."""
    for year in (2011, 2012, 2013):
        watched.add(str(year), f"5 March {year}")
    watched.run("2011-01-01", "2012-01-01", "2013-01-01")
    return watched


@pytest.mark.long
def test_each_change_asks_for_its_own_partitions_and_only_once(published: Watched) -> None:
    source = published.installation.source

    def change(year: int) -> None:
        published.add(str(year), f"5 March {year}", "Rates fell.")

    def touch() -> None:
        os.utime(source / "2012.html", (1, 1))

    def copy_back() -> None:
        shutil.copy(source / "2013.html", source / "aside.txt")
        (source / "2013.html").unlink()
        (source / "aside.txt").rename(source / "2013.html")

    changes: list[tuple[str, Callable[[], object], list[str]]] = [
        ("nothing", lambda: None, []),
        ("touch", touch, []),
        ("same bytes in another file", copy_back, []),
        ("add", lambda: published.add("more", "6 May 2012"), ["2012-01-01"]),
        ("add to an empty partition", lambda: published.add("new", "6 May 2015"), ["2015-01-01"]),
        ("change", lambda: change(2011), ["2011-01-01"]),
        ("rename", lambda: (source / "more.html").rename(source / "x.html"), ["2012-01-01"]),
        ("move", lambda: published.add("2013", "5 March 2014"), ["2014-01-01", "2013-01-01"]),
        ("move back", lambda: published.add("2013", "5 March 2013"), ["2014-01-01", "2013-01-01"]),
        ("remove", lambda: (source / "x.html").unlink(), ["2012-01-01"]),
        ("remove the last one", lambda: (source / "new.html").unlink(), ["2015-01-01"]),
        ("no document", lambda: (source / "empty.html").write_text(""), []),
    ]
    for name, happens, expected in changes:
        happens()
        assert published.asked() == expected, name
        published.run(*expected)
        assert published.asked() == [], name


def test_a_change_that_is_taken_back_after_a_run_has_published_it_is_seen(
    published: Watched,
) -> None:
    published.add("2011", "5 March 2011", "Rates fell.")
    first = published.asked()
    published.add("2011", "5 March 2011", "Rates fell sharply.")
    published.run(*first)

    published.add("2011", "5 March 2011", "Rates fell.")

    assert first == published.asked() == ["2011-01-01"]


def test_a_request_has_run_config_and_tags_and_a_skip_says_why(watched: Watched) -> None:
    watched.installation.environment["RBA_SCHEDULED_RUN_CONFIG"] = json.dumps(CONFIG)
    empty = watched.look()
    watched.add("a", "5 May 2011")
    [request] = watched.look().run_requests or ()
    waiting = watched.look()
    watched.begun("2011-01-01")
    begun = watched.look()

    assert empty.skip_message == "no partition differs from the source"
    assert request.job_name == PUBLISH
    assert request.run_config == CONFIG
    assert request.tags["rba/launched_by"] == CHANGED
    assert request.tags["dagster/max_retries"] == "1"
    assert waiting.skip_message == "asked for before, and not due again yet: 2011-01-01"
    assert begun.skip_message == "a run waits or has not ended yet: 2011-01-01"


def test_a_crash_after_a_look_loses_nothing_and_doubles_nothing(published: Watched) -> None:
    published.add("2011", "5 March 2011", "Rates fell.")
    published.add("2012", "5 March 2012", "Rates fell.")
    lost = published.look(crash=True)
    published.begun("2012-01-01")
    published.add("2011", "5 March 2011", "Rates fell again.")
    published.add("more", "6 May 2011")
    again = published.look(crash=True)
    once_more = published.look()

    keys = [[request.partition_key for request in each.run_requests or ()] for each in (
        lost, again, once_more
    )]  # fmt: skip
    assert keys == [["2012-01-01", "2011-01-01"], ["2011-01-01"], ["2011-01-01"]]
    # The daemon makes one run of requests with one key.
    (first,), (second,) = again.run_requests or (), once_more.run_requests or ()
    assert first.run_key == second.run_key
    assert first.run_key not in {request.run_key for request in lost.run_requests or ()}


@pytest.mark.parametrize(
    "cursor",
    [
        "2012-01-01",
        pytest.param('{"version": 0, "asked": {"2012-01-01": "x"}}', marks=pytest.mark.long),
    ],
)
def test_with_a_broken_cursor_only_what_differs_is_asked_for(
    published: Watched, cursor: str
) -> None:
    (published.installation.source / "2012.html").unlink()
    published.cursor = cursor

    assert published.asked() == ["2012-01-01"]
    assert published.asked() == []


def test_a_source_that_is_away_or_empty_asks_for_nothing(published: Watched) -> None:
    source = published.installation.source
    before = published.installation.rows()
    source.rename(source.with_name("elsewhere"))
    away = published.look()
    source.mkdir()
    empty = published.look()
    source.rmdir()
    source.with_name("elsewhere").rename(source)

    assert away.run_requests in (None, [])
    assert "SourceUnavailable" in str(away.skip_message)
    assert "is missing" in str(away.skip_message)
    assert empty.run_requests in (None, [])
    assert "none of the 3 documents" in str(empty.skip_message)
    assert published.asked() == []
    assert published.installation.rows() == before


def test_without_the_service_it_asks_and_after_the_failure_not_at_once(
    published: Watched,
) -> None:
    (published.installation.source / "2012.html").unlink()
    published.installation.environment |= {
        "EMBEDDING_API_URL": "http://127.0.0.1:9",
        "EMBEDDING_OUTAGE_SECONDS": "1",
    }

    asked = published.asked()
    failed = published.installation.run(*asked)

    assert asked == ["2012-01-01"]
    assert len(failures(failed)) == 1
    assert published.asked() == []
    published.add("2012", "5 March 2012", "Rates fell.")
    assert published.asked() == ["2012-01-01"]


def test_many_partitions_at_once_become_a_backfill(watched: Watched) -> None:
    watched.installation.environment["RBA_SCHEDULED_RUN_CONFIG"] = json.dumps(CONFIG)
    years = range(2000, 2001 + MOST_RUNS)
    for year in years:
        watched.add(str(year), f"5 March {year}")
    keys = [f"{year}-01-01" for year in reversed(years)]
    [request] = watched.look().run_requests or ()
    job = build_defs(watched.installation.settings).resolve_job_def(BACKFILL_STALE)
    # Neither the service nor anything else that the partitions' runs need is asked.
    watched.installation.environment["EMBEDDING_API_URL"] = "http://127.0.0.1:9"
    result = job.execute_in_process(
        run_config=request.run_config, instance=watched.instance, tags=dict(request.tags)
    )

    assert request.job_name == BACKFILL_STALE
    assert result.success
    [backfill] = watched.instance.get_backfills()
    assert backfill.partition_names == keys
    assert backfill.run_config == CONFIG
    assert backfill.tags["rba/launched_by"] == CHANGED
    assert watched.asked() == []
