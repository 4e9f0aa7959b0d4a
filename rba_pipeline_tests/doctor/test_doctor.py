"""An installation that is well, and one thing at a time that is not: its line, and all others."""

import re
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
from rba_pipeline.doctor.examination import concealed
from rba_pipeline.doctor.findings import Finding, Level, look, ok
from rba_pipeline.following import SILENT_S
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
    oracle.stats = {"busy_s": 10.0, "tokens": 50_000, "padded_tokens": 50_000}
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
    assert "2 partitions embed at once, 4 runs at once; each takes up to" in lines["pool"]
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


def test_a_daemon_that_a_backfill_would_call_silent_fails(well: Installation) -> None:
    with dg.DagsterInstance.get() as instance:
        beat(instance, time.time() - SILENT_S - 1)

    lines = examined(1)

    assert not_ok(lines) == {"daemon"}
    assert "no sign of life for 75 s" in lines["daemon"]


def test_a_request_that_is_more_than_a_runs_share_of_the_service_is_a_warning(
    well: Installation, oracle: OracleService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDING_BATCH_SIZE", "64")
    monkeypatch.setenv("EMBEDDING_PARALLEL_BATCHES", "64")

    at_first = examined(0)
    oracle.max_queue_tokens = 64 * 256
    lines = examined(0)

    assert at_first["pool"].startswith("ok ")
    assert lines["pool"].startswith("warning 2 partitions embed at once")
    assert "Use batch_size 32, or fewer places" in lines["pool"]
    assert lines["pitfall"].startswith("warning batch_size=64 is over the service's own")


def test_runs_without_a_limit_are_no_number_of_runs(
    well: Installation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unlimited = (ROOT / "dagster.yaml").read_text().replace("_runs: 4", "_runs: -1")
    (tmp_path / "dagster.yaml").write_text(unlimited)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as instance:
        beat(instance, time.time())

    lines = examined(0)

    assert not_ok(lines) == {"connections", "dagster home"}
    assert "any number of runs may take 4 each: set max_concurrent_runs" in lines["connections"]
    assert "2 partitions embed at once, runs without a limit" in lines["pool"]
    # Neither is the number of a temporary folder.
    assert not re.search(r"(?<!\w)-1\b", str(lines))


@pytest.mark.parametrize("name", ["RBA_DATABASE_URL", "DAGSTER_POSTGRES_URL"])
@pytest.mark.parametrize("password", ["p[w", "p/w"])
def test_an_address_that_cannot_be_read_is_named_and_not_shown(
    well: Installation, monkeypatch: pytest.MonkeyPatch, name: str, password: str
) -> None:
    monkeypatch.setenv(name, f"postgresql://rba:{password}@host/db")

    lines = examined(1)

    about = "database" if name == "RBA_DATABASE_URL" else "dagster"
    assert not_ok(lines) == {about}
    assert lines[about].startswith(f"FAILED {name} is not a postgresql:// address")
    assert "p[w" not in str(lines)
    assert "p/w" not in str(lines)


def test_a_password_that_is_a_part_of_other_words_hides_none_of_them(
    well: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = examined(0)
    monkeypatch.setenv("RBA_DATABASE_URL", "postgresql://rba:rba@127.0.0.1:9/none")

    lines = examined(1)

    assert lines["dagster home"] == before["dagster home"]
    assert "***" not in str(lines)


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
        pytest.param(
            "RBA_SCHEDULED_RUN_CONFIG", "{resources: {embedding: {config: {batch_size: 0}}}}",
            "configuration", "RBA_SCHEDULED_RUN_CONFIG: Invalid embedding settings: batch_size=0",
            id="scheduled",
        ),
        pytest.param(
            "RBA_SCHEDULED_RUN_CONFIG", "{resources: {embedding: {config: {preset: tuned}}}}",
            "configuration", "RBA_SCHEDULED_RUN_CONFIG: preset=tuned: ", id="scheduled-tuned",
        ),
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


def test_variables_that_are_right_only_together_are_right(
    well: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBA_CHUNK_TOKENS", "96")
    monkeypatch.setenv("RBA_CHUNK_OVERLAP", "0")

    assert "configuration" not in not_ok(examined(0))


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


def test_what_a_library_says_shows_neither_key_nor_password() -> None:
    environment = {
        "RBA_DATABASE_URL": "postgresql://rba:p%40s@host/rba",
        "DAGSTER_POSTGRES_URL": "postgresql://rba:p[w@host/dagster?user=a@b",
        "EMBEDDING_API_KEY": "rba, older",
    }

    for told, expected in (
        ("no postgresql://rba:p%40s@host/rba there", "no postgresql://rba:***@host/rba there"),
        (
            "cannot parse 'postgresql://rba:p[w@host/d'",
            "cannot parse 'postgresql://rba:***@host/d'",
        ),
        ("user=rba password=p@s port=1", "user=*** password=*** port=1"),
        ("Bearer older, in rba-pipeline's /p/rba", "Bearer ***, in rba-pipeline's /p/rba"),
    ):
        assert concealed(told, environment) == expected


def test_a_check_that_hangs_or_breaks_is_told_and_the_next_one_comes() -> None:
    ended = threading.Event()

    def hangs() -> Iterator[Finding]:
        yield ok("slow", "begun")
        ended.wait(60)

    def breaks() -> Iterator[Finding]:
        raise ValueError("the key is s3cret")

    checks = [("slow", hangs), ("broken", breaks), ("last", lambda: [ok("last", "fine")])]
    with suppress(StopIteration):
        found = list(look(checks, lambda told: told.replace("s3cret", "***"), deadline_s=0.05))
    ended.set()

    assert [(each.about, each.level, each.told) for each in found] == [
        ("slow", Level.OK, "begun"),
        ("slow", Level.FAILED, "gave no answer in time"),
        ("broken", Level.FAILED, "ValueError: the key is ***"),
        ("last", Level.OK, "fine"),
    ]
