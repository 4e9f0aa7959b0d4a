"""The database of vectors: within reach, of the right version, writable, with room for the runs."""

from collections.abc import Iterator

from rba_pipeline.core.errors import DatabaseError
from rba_pipeline.doctor.findings import Finding, failed, ok, warning
from rba_pipeline.neighbours import Neighbours
from rba_pipeline.resources.database_health import Health
from rba_pipeline.resources.postgres import is_embedded
from rba_pipeline.resources.vector_store import VectorStore

ABOUT = "database"
# A run's process and its step's have a connection of ours and one of Dagster's each.
_CONNECTIONS_PER_RUN = 4
_MIB = 1 << 20


def database(found: Neighbours, runs: int | None) -> Iterator[Finding]:
    """Look at the database.

    Args:
        runs: How many may run at once; ``None``: any number.
    """
    with found.vector_store.open() as store:
        try:
            health = store.health()
        except DatabaseError as error:
            starts = ". It runs while `make up`, or another command, does"
            hint = starts if is_embedded(store.database_url) else ""
            yield failed(ABOUT, f"{error}{hint}")
            return
        yield from _of_server(store, health, runs)


def _of_server(store: VectorStore, health: Health, runs: int | None) -> Iterator[Finding]:
    yield ok(ABOUT, f"PostgreSQL {health.version}, {health.size_bytes // _MIB} MiB")
    try:
        store.check_schema()
        yield ok("schema", f"up to date, pgvector {health.pgvector}")
    except DatabaseError as error:
        yield failed("schema", str(error))
    if health.is_read_only:
        yield failed(ABOUT, "takes no changes: a standby, or switched so. Runs cannot publish")
    yield _room(health, runs)


def _room(health: Health, runs: int | None) -> Finding:
    room = health.most_connections - health.connections
    told = f"{room} of {health.most_connections} are free"
    if runs is None:
        return warning(
            "connections",
            f"{told}, and any number of runs may take {_CONNECTIONS_PER_RUN} each: set "
            f"max_concurrent_runs in dagster.yaml, to {room // _CONNECTIONS_PER_RUN} at most",
        )
    wanted = _CONNECTIONS_PER_RUN * runs
    told = f"{told}, {runs} runs take up to {wanted}"
    if room < wanted:
        return warning(
            "connections", f"{told}: raise max_connections, or lower max_concurrent_runs"
        )
    return ok("connections", told)
