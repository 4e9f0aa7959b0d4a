"""What faults happen to: an empty store; a corpus of one partition, with little patience."""

from collections.abc import Iterator, Sequence

import dagster as dg
import pytest

from rba_pipeline.resources.postgres import EmbeddedPostgres
from rba_pipeline.resources.vector_store import VectorStore
from rba_pipeline_tests.faults.cluster import Cluster
from rba_pipeline_tests.faults.invariants import PHRASE
from rba_pipeline_tests.faults.live_dagster import LiveDagster, empty, make_project
from rba_pipeline_tests.installation import Installation
from rba_pipeline_tests.oracle_service import KEY, OracleService
from rba_pipeline_tests.resources.publishing import store_of

PARTITION = "2011-01-01"
BATCH, PARALLEL = 8, 2
# What a kill may cost: two rounds of requests.
IN_FLIGHT = 2 * BATCH * PARALLEL
# Of the projects over which Dagster's processes run.
FIRST_YEAR = 1960
LIVE_BATCH, LIVE_PARALLEL = 4, 2


def add_documents(
    installation: Installation,
    paragraphs: int,
    names: Sequence[str] = "AB",
    *,
    year: int = 2011,
    word: str = "wheat",
) -> None:
    """Add a document of distinct paragraphs, about one chunk each, for every name."""
    for name in names:
        installation.add(
            f"{name}.html",
            title=f"Statement {name}",
            day=f"5 May {year}",
            paragraphs=[
                " ".join(f"{PHRASE} {name}-{place}-{at} of {word}" for at in range(10)) + "."
                for place in range(paragraphs)
            ],
        )


# For tests of what a run does both at the pace that it is given and, as by default, at its own.
AT_EITHER_PACE = pytest.mark.parametrize(
    "adaptive",
    [
        pytest.param("false", id="fixed"),
        pytest.param("true", id="adaptive", marks=pytest.mark.long),
    ],
)


@pytest.fixture
def adaptive() -> str:
    """Have runs keep the pace that they are given, so that a test may count requests."""
    return "false"


@pytest.fixture
def project(installation: Installation, adaptive: str) -> Installation:
    """Have two documents of one partition, some sixty chunks, and a database with our schema."""
    installation.environment |= {
        "RBA_CHUNK_TOKENS": "96",
        "RBA_CHUNK_OVERLAP": "0",
        "EMBEDDING_BATCH_SIZE": str(BATCH),
        "EMBEDDING_PARALLEL_BATCHES": str(PARALLEL),
        "EMBEDDING_ADAPTIVE": adaptive,
        "EMBEDDING_API_TIMEOUT": "20",
        "EMBEDDING_OUTAGE_SECONDS": "20",
    }
    add_documents(installation, paragraphs=32)
    with installation.neighbours() as found:
        found.vector_store.migrate()
    return installation


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Have a server that may be killed."""
    with Cluster() as server:
        yield server


@pytest.fixture
def store(database_url: str) -> Iterator[VectorStore]:
    """Have a store with a schema and nothing in it."""
    with store_of(database_url).open() as opened:
        opened.migrate()
        yield opened


@pytest.fixture(scope="module")
def live_service() -> Iterator[OracleService]:
    """Run an oracle for all tests of a module."""
    with OracleService() as oracle:
        yield oracle


@pytest.fixture(scope="module")
def live_settings() -> dict[str, str]:
    """Have the variables of the live project that a module may want otherwise."""
    return {
        "EMBEDDING_BATCH_SIZE": str(LIVE_BATCH),
        "EMBEDDING_PARALLEL_BATCHES": str(LIVE_PARALLEL),
        "EMBEDDING_ADAPTIVE": "false",
        "EMBEDDING_API_TIMEOUT": "60",
    }


@pytest.fixture(scope="module")
def live_place(
    postgres: EmbeddedPostgres,
    live_service: OracleService,
    live_settings: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Installation]:
    """Have a project folder with our dagster.yaml, and its environment in force."""
    made = make_project(tmp_path_factory.mktemp("live"), postgres)
    made.environment |= {
        "RBA_FIRST_YEAR": str(FIRST_YEAR),
        "RBA_CHUNK_TOKENS": "96",
        "RBA_CHUNK_OVERLAP": "0",
        "EMBEDDING_API_URL": live_service.url,
        "EMBEDDING_API_KEY": KEY,
        "RBA_PROJECT": str(made.folder),
        **live_settings,
    }
    # Not 127.0.0.1: commands would take that for a server of this project's own.
    for name in ("DAGSTER_POSTGRES_URL", "RBA_DATABASE_URL", "EMBEDDING_API_URL"):
        made.environment[name] = made.environment[name].replace("127.0.0.1", "localhost")
    with pytest.MonkeyPatch.context() as environment:
        for name, value in made.environment.items():
            environment.setenv(name, value)
        yield made


@pytest.fixture(scope="module")
def live(live_place: Installation) -> Iterator[LiveDagster]:
    """Run code server, daemon and web interface for all tests of a module."""
    with dg.DagsterInstance.get() as instance:
        dagster = LiveDagster(live_place.folder, instance)
        try:
            dagster.start()
            yield dagster
        finally:
            dagster.stop()


@pytest.fixture
def live_oracle(live_service: OracleService) -> Iterator[OracleService]:
    """Have the oracle as new, and let nothing wait for it afterwards."""
    live_service.script = lambda number, texts: None
    live_service.sent.clear()
    live_service.peak_in_flight = 0
    yield live_service
    live_service.script = lambda number, texts: None


@pytest.fixture
def live_project(live_place: Installation) -> Installation:
    """Have an empty corpus and store, and a database with our schema and nothing else."""
    empty(live_place)
    return live_place


def fill(project: Installation, partitions: int) -> list[str]:
    """Add one document of a dozen chunks to so many partitions, and return their keys."""
    years = range(FIRST_YEAR, FIRST_YEAR + partitions)
    for year in years:
        add_documents(project, paragraphs=12, names=[f"{year}"], year=year)
    return [f"{year}-01-01" for year in years]


def deadline_s(partitions: int) -> float:
    return 60 + 10 * partitions
