"""An installation that is well, and one thing at a time that is not: its line, and all others."""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import dagster as dg
import psycopg
import pytest
from dagster._daemon.types import DaemonHeartbeat

from embedding_service.settings import Settings as ServiceSettings
from rba_pipeline.doctor.configuration import SERVICE_VARIABLES
from rba_pipeline.doctor.findings import Finding, Level, look, ok
from rba_pipeline.resources.postgres import EmbeddedPostgres
from rba_pipeline_tests.command_line import called
from rba_pipeline_tests.faults.live_dagster import make_project
from rba_pipeline_tests.installation import ROOT, Installation, failures
from rba_pipeline_tests.oracle_service import KEY, OracleService

pytestmark = pytest.mark.postgres

# What is looked at in an installation that is well.
EVERYTHING = {
    "configuration", "service", "service model", "service speed", "service vectors", "space",
    "pitfalls", "database", "schema", "connections", "dagster home", "dagster storage", "daemon",
    "run monitoring", "pool", "record", "source",
}  # fmt: skip


def beat(instance: dg.DagsterInstance, at_s: float) -> None:
    """Give the sign of life that a daemon gives."""
    for name in instance.get_required_daemon_types():
        instance.add_daemon_heartbeat(DaemonHeartbeat(at_s, name, "a-daemon"))


@pytest.fixture(scope="module")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, postgres: EmbeddedPostgres
) -> Iterator[Installation]:
    """Have a project with our dagster.yaml over Postgres, one partition published, and no service
    any more.
    """
    made = make_project(tmp_path_factory.mktemp("well"), postgres)
    made.source.mkdir()
    (made.folder / "dagster.yaml").symlink_to(ROOT / "dagster.yaml")
    made.add("a.html", title="A", day="5 May 2011", paragraphs=["Rain fell on the plain."])
    with OracleService() as oracle, pytest.MonkeyPatch.context() as environment:
        made.environment |= {"EMBEDDING_API_URL": oracle.url, "EMBEDDING_API_KEY": KEY}
        made.environment |= {"RBA_PROJECT": str(made.folder)}
        for name, value in made.environment.items():
            environment.setenv(name, value)
        assert failures(made.run_all()) == []
    return made


@pytest.fixture
def well(
    prepared: Installation, oracle: OracleService, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Installation]:
    """Have the project well, with a service, and a daemon that gave a sign of life just now."""
    prepared.environment["EMBEDDING_API_URL"] = oracle.url
    oracle.stats = {"busy_s": 10.0, "tokens": 50_000}
    for name, value in prepared.environment.items():
        monkeypatch.setenv(name, value)
    with dg.DagsterInstance.get() as instance:
        beat(instance, time.time())
    return prepared


def examined(code: int) -> dict[str, str]:
    """Return level and words of every line by what it is about; the last one where there are
    several.
    """
    result = called("doctor")
    assert result.exit_code == code, result.output
    lines = {}
    for line in result.output.splitlines():
        lines[line[9:25].strip()] = f"{line[:8].strip()} {line[26:]}"
    return lines


def not_ok(lines: dict[str, str]) -> set[str]:
    return {about for about, told in lines.items() if not told.startswith("ok ")}


def test_an_installation_that_is_well_has_an_ok_for_everything(well: Installation) -> None:
    lines = examined(0)

    assert not_ok(lines) == set()
    assert set(lines) == EVERYTHING
    assert "5000 tokens per second" in lines["service speed"]
    assert "2 places × 32 × 8 texts of 256 tokens" in lines["pool"]
    assert "pgvector 0.8" in lines["schema"]
    assert "1 files" in lines["source"]


def test_a_service_that_is_gone_hides_nothing_else(
    well: Installation, oracle: OracleService
) -> None:
    oracle.crash()

    lines = examined(1)

    assert not_ok(lines) == {"service"}
    assert "cannot reach the embedding service" in lines["service"]
    assert {"database", "schema", "dagster storage", "daemon", "pool", "record"} <= set(lines)


def test_a_wrong_key_is_named_and_never_shown(
    well: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDING_API_KEY", "wrong-and-secret")

    lines = examined(1)

    assert "FAILED" in lines["service"]
    assert "check EMBEDDING_API_KEY" in lines["service"]
    assert "wrong-and-secret" not in str(lines)


def test_a_service_with_another_model_than_search_reads_is_a_warning(
    well: Installation, oracle: OracleService
) -> None:
    oracle.model = "newer"

    lines = examined(0)

    assert lines["space"].startswith("warning search reads ")
    assert "searches are refused" in lines["space"]


def test_a_service_that_gives_other_vectors_in_the_same_space_fails(
    well: Installation, oracle: OracleService
) -> None:
    oracle.canary_script = lambda: oracle.regular(["another song"])

    lines = examined(1)

    assert "gives other vectors" in lines["service"]
    assert "ok" in lines["space"]


def test_a_database_that_is_gone_hides_nothing_else_and_shows_no_password(
    well: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = "postgresql://rba:hush-hush@127.0.0.1:9/none"
    monkeypatch.setenv("RBA_DATABASE_URL", gone)
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", gone)

    lines = examined(1)

    assert not_ok(lines) == {"database", "dagster"}
    assert "It runs while `make up`" in lines["database"]
    assert {"service", "pitfalls", "record", "source", "dagster home"} <= set(lines)
    assert "hush-hush" not in str(lines)


def test_a_database_without_our_schema_says_what_to_run(
    well: Installation, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBA_DATABASE_URL", database_url)

    lines = examined(1)

    assert lines["schema"].startswith("FAILED")
    assert "rba-pipeline migrate" in lines["schema"]
    assert lines["database"].startswith("ok")


def test_a_storage_without_dagsters_tables_gets_none(
    well: Installation, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", database_url)

    lines = examined(1)

    assert "no tables of Dagster yet" in lines["dagster storage"]
    with psycopg.connect(database_url) as connection:
        left = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        assert left.fetchone() == (0,)


def test_a_daemon_without_a_sign_of_life_for_minutes_fails(well: Installation) -> None:
    with dg.DagsterInstance.get() as instance:
        beat(instance, time.time() - 600)

    lines = examined(1)

    assert not_ok(lines) == {"daemon"}
    assert "no sign of life for 120 s" in lines["daemon"]


def test_a_pool_that_admits_more_than_the_service_takes_is_a_warning(
    well: Installation, oracle: OracleService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDING_BATCH_SIZE", "64")
    monkeypatch.setenv("EMBEDDING_PARALLEL_BATCHES", "64")

    lines = examined(0)

    assert "the rest is refused and comes again" in lines["pool"]
    assert lines["pitfall"].startswith("warning batch_size=64 is over the service's own")


@pytest.mark.parametrize(
    ("name", "value", "about", "words"),
    [
        pytest.param("DAGSTER_HOME", "", "dagster home", "is not set", id="no-home"),
        pytest.param("DAGSTER_HOME", "home", "dagster home", "not the whole path", id="relative"),
        pytest.param("DAGSTER_HOME", "/", "dagster home", "has no dagster.yaml", id="no-yaml"),
        pytest.param("DAGSTER_POSTGRES_URL", "", "dagster storage", "is not set", id="no-storage"),
        pytest.param("RBA_DATABASE_URL", "", "database", "is not set", id="no-database"),
        pytest.param("EMBEDDING_BATCH_SIZE", "0", "configuration", "1 to 2048", id="range"),
        pytest.param("RBA_GRAIN", "week", "configuration", "RBA_GRAIN='week'", id="grain"),
        pytest.param("EMBEDDING_PRESET", "tuned", "configuration", "rba-pipeline tune", id="tuned"),
        pytest.param("RBA_STORE", "/proc/version/s", "record", "cannot be", id="store"),
        pytest.param("RBA_SOURCE", "/absent/folder", "source", "/absent/folder", id="source"),
    ],
)  # fmt: skip
def test_a_bad_variable_has_a_line_and_the_others_are_still_there(
    well: Installation,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    about: str,
    words: str,
) -> None:
    monkeypatch.setenv(name, value)

    lines = examined(1)

    assert lines[about].startswith("FAILED")
    assert words in lines[about]
    assert {"configuration", "service", "record", "source"} <= set(lines)


def test_every_variable_that_is_wrong_is_named(
    well: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDING_BATCH_SIZE", "0")
    monkeypatch.setenv("RBA_FIRST_YEAR", "soon")
    monkeypatch.setenv("EMBEDDING_BATCHSIZE", "8")

    result = called("doctor")

    assert "batch_size=0" in result.output
    assert "RBA_FIRST_YEAR='soon'" in result.output
    assert "nobody reads EMBEDDING_BATCHSIZE: is it misspelt?" in result.output


def test_the_services_variables_are_the_ones_that_it_reads() -> None:
    fields = {f"EMBEDDING_{name.upper()}" for name in ServiceSettings.model_fields}

    assert fields | {"EMBEDDING_HOST", "EMBEDDING_PORT", "EMBEDDING_LOG_FORMAT"} >= (
        SERVICE_VARIABLES
    )
    assert fields <= SERVICE_VARIABLES


def test_nothing_is_made_where_nothing_is(
    tmp_path: Path, well: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for name in well.environment:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RBA_PROJECT", str(empty))
    monkeypatch.setenv("RBA_STORE", str(empty / "store"))

    lines = examined(1)

    assert list(empty.iterdir()) == []
    assert {"database", "dagster home"} <= not_ok(lines)


def test_a_check_that_hangs_or_breaks_is_told_and_the_next_one_comes() -> None:
    ended = threading.Event()

    def hangs() -> Iterator[Finding]:
        yield ok("slow", "begun")
        ended.wait(60)

    def breaks() -> Iterator[Finding]:
        raise ValueError("the key is s3cret")

    checks = [("slow", hangs), ("broken", breaks), ("last", lambda: [ok("last", "fine")])]
    with suppress(StopIteration):
        found = list(look(checks, ["s3cret"], deadline_s=0.05))
    ended.set()

    assert [(each.about, each.level, each.told) for each in found] == [
        ("slow", Level.OK, "begun"),
        ("slow", Level.FAILED, "gave no answer in time"),
        ("broken", Level.FAILED, "ValueError: the key is ***"),
        ("last", Level.OK, "fine"),
    ]
