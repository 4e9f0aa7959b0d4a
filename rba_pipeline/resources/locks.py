"""Advisory locks, which belong to nobody but us, and who holds locks that we wait for."""

import hashlib
import json

import psycopg

# 16384 is the first number of what users make: nobody waits for us on Postgres' own tables.
_HOLDERS = """
SELECT pid, application_name, state, extract(epoch FROM clock_timestamp() - xact_start)::float8
FROM pg_stat_activity a
WHERE datname = current_database() AND pid <> pg_backend_pid()
AND wait_event_type IS DISTINCT FROM 'Lock'
AND EXISTS (SELECT 1 FROM pg_locks l WHERE l.pid = a.pid AND l.granted
    AND (l.locktype = 'advisory' OR l.relation >= 16384))
ORDER BY xact_start, pid LIMIT 3
"""


def lock_key(*names: str) -> int:
    """Return the number of the advisory lock that these names share, a signed 64-bit integer."""
    digest = hashlib.sha256(json.dumps(names).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def wait_for_lock(
    connection: psycopg.Connection, key: int, timeout_s: float, *, until_commit: bool
) -> None:
    """Take the lock ``key`` within a transaction, waiting longer than one waits for a table.

    Args:
        until_commit: Give it back when the transaction ends, else when the connection does.
    """
    function = "pg_advisory_xact_lock" if until_commit else "pg_advisory_lock"
    connection.execute(f"SET LOCAL lock_timeout = {round(timeout_s * 1000)}")
    # Waiting for one's turn is not a statement that takes too long.
    connection.execute("SET LOCAL statement_timeout = 0")
    connection.execute(f"SELECT {function}(%s)", [key])
    connection.execute("SET LOCAL lock_timeout TO DEFAULT")
    connection.execute("SET LOCAL statement_timeout TO DEFAULT")


def holders(connection: psycopg.Connection) -> list[str]:
    """Return who holds locks in this database now, three at most, the longest first.

    Whoever we waited for is among them, unless they have just finished; Postgres names the one
    that blocks only while somebody is blocked.
    """
    return [_holder(*row) for row in connection.execute(_HOLDERS)]


def name_session(connection: psycopg.Connection, name: str, *, until_commit: bool) -> None:
    """Let the server list this session as ``name``, of which 63 bytes are shown."""
    connection.execute("SELECT set_config('application_name', %s, %s)", [name, until_commit])


def _holder(pid: int, name: str, state: str | None, open_s: float | None) -> str:
    since = f" for {open_s:.0f} s" if open_s is not None else ""
    return f"process {pid} ({name or 'unnamed'}, {state or 'of another user'}{since})"
