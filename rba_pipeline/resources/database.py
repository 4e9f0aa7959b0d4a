"""One connection to Postgres: made when needed, made again when lost, its work then repeated."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, TypeVar

import psycopg
from pgvector.psycopg import register_vector
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from rba_pipeline.core.addresses import no_address
from rba_pipeline.core.errors import DatabaseError, DatabaseUnavailable
from rba_pipeline.core.patience import Patience
from rba_pipeline.resources import locks, schema
from rba_pipeline.resources.refusals import Refusal, refusal_of
from rba_pipeline.resources.watched_connection import WatchedConnection

# Until pauses are at their longest, and then one per half of the longest pause.
FIRST_ATTEMPTS, SECONDS_PER_ATTEMPT = 7, 2
# An address that never answered is more often wrong than restarting.
FIRST_CONNECT_S = 5.0

Result = TypeVar("Result")

# Seconds; together they notice a peer that vanished without a word after a minute.
_CONNECTION = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # milliseconds
}
# As options of the connection, so that SET … TO DEFAULT comes back to them. The server gives up a
# vanished client, and with it its locks, as fast as the client gives up the server. The temporary
# buffers hold a slice of what a publication stages, and the index that it is joined by: 700,000
# chunks of 384 dimensions took Postgres 7 % less than with its default of 8 MB.
_SESSION = {
    "lock_timeout": "10s",
    "statement_timeout": "15min",
    "idle_in_transaction_session_timeout": "5min",
    "temp_buffers": "64MB",
    "tcp_keepalives_idle": "30s",
    "tcp_keepalives_interval": "10s",
    "tcp_keepalives_count": "3",
}


class _LockLost(DatabaseUnavailable):
    """The connection was lost, and with it the lock that was held."""


class Database:
    """A connection that serves one thread.

    Work given to ``run`` is begun again, as a whole, after a failure that passes. It has to be such
    that doing it twice does no more than doing it once: when a connection is lost at the commit,
    nobody can tell whether it was done.
    """

    def __init__(self, url: str, *, name: str, retry_for_s: float) -> None:
        """Name the database; nothing is connected.

        Args:
            url: Its parameters come before the defaults of this module.
            name: Under which the server lists our sessions.
            retry_for_s: How long a failure that passes is tried again.

        Raises:
            DatabaseError: ``url`` is not an address.
        """
        parameters = _parameters(url, name)
        self._address, self._place = make_conninfo(**parameters), _place(parameters)
        self._name = parameters["application_name"]
        attempts = FIRST_ATTEMPTS + int(retry_for_s / SECONDS_PER_ATTEMPT)
        self._patience = Patience(attempts, within_s=retry_for_s)
        self._connection: psycopg.Connection | None = None
        self._was_reached = self._is_checked = self._is_pinned = False
        self._closing = threading.Event()

    def close(self) -> None:
        """End the connection, and the waiting of a thread that is about to try again."""
        self._closing.set()
        self._drop()

    def run(
        self, what: str, work: Callable[[psycopg.Connection], Result], *, any_schema: bool = False
    ) -> Result:
        """Return what ``work`` returns, given a connection outside of a transaction.

        Args:
            what: What it does, for the error's text, like ``counting``.
            any_schema: Leave unchecked whether the schema is the one of this code.

        Raises:
            DatabaseUnavailable: No connection, as often as it was tried.
            DatabaseBusy: Others were in the way, as often as it was tried.
            DatabaseFull: The server has no room; not tried again.
            DatabaseReadOnly: The server takes no changes; not tried again.
            SchemaMismatch: The schema is not the one of this code.
            DatabaseError: Postgres refused in another way; not tried again.
        """
        failed, first_failed = 0, 0.0
        while True:
            try:
                return self._once(work, any_schema)
            except psycopg.Error as error:
                failed += 1
                first_failed = first_failed or time.monotonic()
                refused = refusal_of(error)
                holders = self._tidy(refused)
                # How long work went well before it failed is no time of trouble.
                elapsed_s = time.monotonic() - first_failed
                pause_s = self._pause_s(refused, failed, elapsed_s)
                if pause_s is None or self._closing.wait(pause_s):
                    often = f" {failed} times within {elapsed_s:.1f} s" if failed > 1 else ""
                    kind = _LockLost if refused.is_lost and self._is_pinned else refused.kind
                    raise kind(
                        f"{self._place}: {what} failed{often}: {refused.sentence}{holders}"
                    ) from error

    def holding(
        self,
        noun: str,
        key: int,
        work: Callable[[], Result],
        *,
        timeout_s: float,
        waiting: locks.Waiting,
    ) -> Result:
        """Return what ``work`` returns, with the advisory lock ``key``, for ``noun``, held by us.

        The lock goes with a connection that is lost meanwhile, and somebody else may have it then:
        ``work`` is begun again under the lock of another connection. It may use this database.

        Raises:
            DatabaseBusy: Others held the lock for ``timeout_s``.
            DatabaseUnavailable: The connection was lost, as often as it was tried.
        """
        failed, lost_at_s = 0, 0.0
        while True:
            try:
                with self._session_lock(noun, key, timeout_s, waiting):
                    return work()
            except _LockLost as lost:
                failed += 1
                now_s = time.monotonic()
                lost_at_s = lost_at_s or now_s
                pause_s = self._patience.next_pause_s(
                    failed=failed, elapsed_s=now_s - lost_at_s, jitter=random.random()
                )
                if pause_s is None or self._closing.wait(pause_s):
                    raise DatabaseUnavailable(f"{lost} ({failed} times)") from lost

    @contextmanager
    def _session_lock(
        self, noun: str, key: int, timeout_s: float, waiting: locks.Waiting
    ) -> Iterator[None]:
        """Hold the lock for the block. A connection that is lost meanwhile is not made again."""

        def lock(connection: psycopg.Connection) -> None:
            with connection.transaction():
                locks.name_session(connection, f"{self._name}: {noun}", until_commit=False)
                locks.wait_for_lock(connection, key, timeout_s, until_commit=False, waiting=waiting)

        def unlock(connection: psycopg.Connection) -> None:
            connection.execute("SELECT pg_advisory_unlock(%s)", [key])
            locks.name_session(connection, self._name, until_commit=False)

        self.run(f"locking {noun}", lock)
        self._is_pinned = True
        try:
            yield
        except BaseException:
            # It says more than that the lock is lost as well.
            with suppress(DatabaseError):
                self.run(f"unlocking {noun}", unlock)
            raise
        else:
            self.run(f"unlocking {noun}", unlock)
        finally:
            self._is_pinned = False
            if self._connection is not None and self._connection.closed:
                self._drop()

    def _once(self, work: Callable[[psycopg.Connection], Result], any_schema: bool) -> Result:
        connection = self._connect()
        if not (any_schema or self._is_checked):
            schema.check_schema(connection)
            register_vector(connection)
            self._is_checked = True
        result = work(connection)
        if connection.closed:
            # psycopg leaves a transaction whose connection is gone without a word.
            raise psycopg.OperationalError("the connection was lost before the end was confirmed")
        return result

    def _connect(self) -> psycopg.Connection:
        if self._connection is None:
            self._connection = WatchedConnection.to(self._address)
            self._was_reached = True
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection, self._is_checked = None, False

    def _tidy(self, refused: Refusal) -> str:
        """Let go of a lost connection; return who held a lock, as far as that can be seen."""
        connection = self._connection
        if connection is None:
            return ""
        if (refused.is_lost or connection.closed) and not self._is_pinned:
            self._drop()
        if not refused.is_lock or connection.closed:
            return ""
        with suppress(psycopg.Error):
            held = locks.holders(connection)
            return f". Locks are held by {', '.join(held)}" if held else ""
        return ""

    def _pause_s(self, refused: Refusal, failed: int, elapsed_s: float) -> float | None:
        if not refused.passes or (refused.is_lost and self._is_pinned):
            return None
        patience = self._patience
        if not (self._was_reached or refused.is_there):
            patience = replace(patience, within_s=min(patience.within_s, FIRST_CONNECT_S))
        return patience.next_pause_s(failed=failed, elapsed_s=elapsed_s, jitter=random.random())


def _parameters(url: str, name: str) -> dict[str, Any]:
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # libpq repeats what it could not read, which may be the password: not even as a cause.
        raise DatabaseError(no_address("RBA_DATABASE_URL")) from None
    options = " ".join(f"-c {key}={value}" for key, value in _SESSION.items())
    own = {**_CONNECTION, "application_name": name}
    return {**own, **given, "options": f"{options} {given.get('options', '')}".strip()}


def _place(parameters: dict[str, Any]) -> str:
    """Return host, port and name of a database, without user and password."""
    host, port = parameters.get("host", "localhost"), parameters.get("port", 5432)
    return f"database {parameters.get('dbname', '')!r} at {host}:{port}"
