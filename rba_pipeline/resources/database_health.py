"""What a Postgres server says of itself."""

from dataclasses import dataclass

import psycopg

from rba_pipeline.resources.database import Database


@dataclass(frozen=True, slots=True)
class Health:
    """Figures of one moment.

    Attributes:
        pgvector: Version of the extension in this database; ``None``: it is not there.
        connections: Of all databases of the server, ours among them.
        most_connections: Those for users without special rights.
        size_bytes: Of this database.
    """

    version: str
    pgvector: str | None
    connections: int
    most_connections: int
    size_bytes: int
    is_read_only: bool


def health(connection: psycopg.Connection) -> Health:
    """Return what the server says now."""
    row = connection.execute(
        "SELECT current_setting('server_version'), "
        "(SELECT extversion FROM pg_extension WHERE extname = 'vector'), "
        "(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), "
        "current_setting('max_connections')::int "
        "- current_setting('superuser_reserved_connections')::int, "
        "pg_database_size(current_database()), current_setting('transaction_read_only') = 'on'"
    ).fetchone()
    if row is None:
        raise RuntimeError("Postgres returned no row: this is a bug in database_health")
    return Health(*row)


def has_table(url: str, table: str) -> bool:
    """Return whether the database at ``url`` is within reach and has ``table``.

    Raises:
        DatabaseError: It is not within reach.
    """
    database = Database(url, name="rba_pipeline doctor", retry_for_s=0)

    def look(connection: psycopg.Connection) -> bool:
        found = connection.execute("SELECT to_regclass(%s)", [table]).fetchone()
        return found is not None and found[0] is not None

    try:
        return database.run("looking for tables", look, any_schema=True)
    finally:
        database.close()
