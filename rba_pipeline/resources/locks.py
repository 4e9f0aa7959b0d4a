"""Advisory locks, which belong to nobody but us, and who holds locks that we wait for."""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import psycopg
from psycopg import sql

from rba_pipeline.core.stages import Stage
from rba_pipeline.resources.stopwatch import Stopwatch

# Called with the seconds waited so far, 0 at first; returns in how many seconds it wants to be
# called again, at the latest, if the lock is not ours by then: each time costs the place in the
# line.
OnWait = Callable[[float], float]


class TurnMissed(psycopg.errors.LockNotAvailable):
    """Others kept the lock for as long as we were to wait in line: that is not tried again."""


def _unheard(waited_s: float) -> float:
    return math.inf


@dataclass(frozen=True, slots=True)
class Waiting:
    """Who is told while a lock is waited for; nobody, if it is free.

    Attributes:
        stopwatch: Counts it to ``Stage.LOCKING``.
    """

    stopwatch: Stopwatch = field(default_factory=lambda: Stopwatch("vectors"))
    on_wait: OnWait = _unheard


# Whoever would write to a table stands behind us for so long, at most: longer than Postgres lets us
# wait for an autovacuum before it ends that (deadlock_timeout, 1 s unless set otherwise).
_TABLE_TRY_S = 2.0

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
    connection: psycopg.Connection,
    key: int,
    timeout_s: float,
    *,
    until_commit: bool,
    waiting: Waiting,
) -> None:
    """Take the lock ``key`` within a transaction, waiting longer than one waits for a table.

    Args:
        until_commit: Give it back when the transaction ends, else when the connection does.
        waiting: Told if somebody else has it.

    Raises:
        TurnMissed: Others had it all the time.
    """
    kind = "xact_lock" if until_commit else "lock"
    free = connection.execute(f"SELECT pg_try_advisory_{kind}(%s)", [key]).fetchone()
    if free is None or not free[0]:
        lock = sql.SQL("SELECT pg_advisory_{}({})").format(sql.SQL(kind), key)
        _wait_long(connection, lock, timeout_s, waiting)


def keep_writers_away(
    connection: psycopg.Connection, table: str, timeout_s: float, waiting: Waiting
) -> None:
    """Let ``table`` be read only until the transaction ends, once those who write to it are done.

    Raises:
        TurnMissed: There was one all the time.
    """
    lock = sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(sql.Identifier(table))

    def in_short_tries(waited_s: float) -> float:
        return min(_TABLE_TRY_S, waiting.on_wait(waited_s))

    try:
        with connection.transaction():
            connection.execute(lock + sql.SQL(" NOWAIT"))
    except psycopg.errors.LockNotAvailable:
        _wait_long(connection, lock, timeout_s, replace(waiting, on_wait=in_short_tries))


def _wait_long(
    connection: psycopg.Connection, lock: sql.Composed, timeout_s: float, waiting: Waiting
) -> None:
    with waiting.stopwatch.stage(Stage.LOCKING):
        # Waiting for one's turn is not a statement that takes too long.
        connection.execute("SET LOCAL statement_timeout = 0")
        _wait_in_line(connection, lock, timeout_s, waiting.on_wait)
        connection.execute("SET LOCAL lock_timeout TO DEFAULT")
        connection.execute("SET LOCAL statement_timeout TO DEFAULT")


def _wait_in_line(
    connection: psycopg.Connection, lock: sql.Composed, timeout_s: float, on_wait: OnWait
) -> None:
    """Run ``lock``, which waits; whenever ``on_wait`` is called again, it goes to the end of the
    line.
    """
    began_s, waited_s = time.monotonic(), 0.0
    while True:
        try_s = min(timeout_s - waited_s, on_wait(waited_s))
        try:
            with connection.transaction():
                # 0 would be for ever.
                connection.execute(f"SET LOCAL lock_timeout = {max(1, round(try_s * 1000))}")
                connection.execute(lock)
            return
        except psycopg.errors.LockNotAvailable as error:
            waited_s = time.monotonic() - began_s
            if waited_s >= timeout_s:
                raise TurnMissed(*error.args) from error


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
