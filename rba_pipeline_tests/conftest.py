"""Real neighbours for tests: one Postgres per test run, a database per test, oracle and real
service.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psycopg
import pytest
from psycopg import sql

from rba_pipeline.resources.postgres import EmbeddedPostgres
from rba_pipeline_tests.installation import Installation, installation_in
from rba_pipeline_tests.oracle_service import OracleService

# One file of events for all runs: with one for each, a connection costs more than what it is for.
_DAGSTER_YAML = """
telemetry: {enabled: false}
run_storage:
  module: dagster._core.storage.runs
  class: SqliteRunStorage
  config: {base_dir: {env: DAGSTER_HOME}}
event_log_storage:
  module: dagster._core.storage.event_log
  class: ConsolidatedSqliteEventLogStorage
  config: {base_dir: {env: DAGSTER_HOME}}
schedule_storage:
  module: dagster._core.storage.schedules
  class: SqliteScheduleStorage
  config: {base_dir: {env: DAGSTER_HOME}}
"""

# A quarter of a minute of computing or more each, the longest first.
_LONGEST = (
    "test_faults_soak.py", "test_daemon.py", "test_same_vectors.py", "test_backends.py",
    "test_pipeline.py", "test_stack.py", "test_client.py", "test_client_texts.py",
    "test_demo.py", "test_preparation.py",
    "test_documents.py", "test_commands.py", "test_kills.py",
)  # fmt: skip

pytest_plugins = ["rba_pipeline_tests.fault_table"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the modules that take longest, so that no worker is left with one of them alone.

    For workers that take modules in this order: ``--dist loadscope --no-loadscope-reorder``.
    """

    def place(item: pytest.Item) -> int:
        name = item.path.name
        return _LONGEST.index(name) if name in _LONGEST else len(_LONGEST)

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two more than there are cores, up to four: workers wait for disks, sockets and clocks."""
    return min((os.cpu_count() or 1) + 2, 4)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Have a folder that all workers of a test run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if base.name.startswith("popen-") else base


@pytest.fixture(scope="session", autouse=True)
def prepared_models(shared_folder: Path) -> Iterator[Path]:
    """Prepare each model for OpenVINO once per test run, whichever process needs it first."""
    folder = shared_folder / "prepared-models"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("EMBEDDING_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """Run a server of this test run's own, below a folder that only its user can enter."""
    folder = Path(tempfile.mkdtemp(prefix="rba-tests-"))
    server = EmbeddedPostgres(folder / "postgres", port=0, password="test", durable=False)
    try:
        with server:
            yield server
        server.remove()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """Have an empty database for one test."""
    name = f"test_{secrets.token_hex(4)}"
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield postgres.url(name)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def oracle() -> Iterator[OracleService]:
    """Run an oracle service."""
    with OracleService() as service:
        yield service


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A FIFO: opening it for writing waits until the fake model is inside a batch to be held."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


@pytest.fixture(scope="session")
def fresh_dagster_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Have a home in which Dagster's tables are made and nothing has run, to be copied: making
    them takes longer than most runs.
    """
    home = tmp_path_factory.mktemp("fresh") / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text(_DAGSTER_YAML)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DAGSTER_HOME", str(home))
        with dg.DagsterInstance.get():
            pass
    return home


@pytest.fixture
def installation(
    tmp_path: Path,
    database_url: str,
    oracle: OracleService,
    fresh_dagster_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Installation:
    """Have an empty corpus, store and database, the oracle as service, and Dagster's storage in
    SQLite.
    """
    shutil.copytree(fresh_dagster_home, tmp_path / "dagster")
    return installation_in(tmp_path, database_url, oracle, monkeypatch)
