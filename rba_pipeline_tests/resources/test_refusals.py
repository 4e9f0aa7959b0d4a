"""What Postgres means when it refuses: without a database, from its texts alone."""

import psycopg
import pytest

from rba_pipeline.core.errors import (
    DatabaseBusy,
    DatabaseError,
    DatabaseFull,
    DatabaseReadOnly,
    DatabaseUnavailable,
)
from rba_pipeline.resources.locks import TurnMissed
from rba_pipeline.resources.refusals import is_of_one_row, quoted, refusal_of

E = psycopg.errors


@pytest.mark.parametrize(
    ("error", "kind", "passes"),
    [
        pytest.param(
            psycopg.OperationalError("connection failed: Connection refused"),
            DatabaseUnavailable, True, id="refused",
        ),
        pytest.param(
            psycopg.OperationalError("FATAL: the database system is starting up"),
            DatabaseUnavailable, True, id="starting",
        ),
        pytest.param(
            psycopg.OperationalError("FATAL: sorry, too many clients already"),
            DatabaseBusy, True, id="too-many-clients",
        ),
        pytest.param(
            psycopg.OperationalError('FATAL: password authentication failed for user "u"'),
            DatabaseUnavailable, False, id="wrong-password",
        ),
        pytest.param(
            psycopg.OperationalError('FATAL: database "x" does not exist'),
            DatabaseUnavailable, False, id="no-such-database",
        ),
        pytest.param(E.ConnectionFailure("gone"), DatabaseUnavailable, True, id="class-08"),
        pytest.param(E.AdminShutdown("ended"), DatabaseUnavailable, True, id="57P01"),
        pytest.param(E.CannotConnectNow("not yet"), DatabaseUnavailable, True, id="57P03"),
        pytest.param(E.SerializationFailure("again"), DatabaseBusy, True, id="40001"),
        pytest.param(E.DeadlockDetected("dead"), DatabaseBusy, True, id="40P01"),
        pytest.param(E.LockNotAvailable("locked"), DatabaseBusy, True, id="55P03"),
        pytest.param(TurnMissed("locked"), DatabaseBusy, False, id="turn-missed"),
        pytest.param(E.TooManyConnections("full house"), DatabaseBusy, True, id="53300"),
        pytest.param(E.DiskFull("No space left on device"), DatabaseFull, False, id="53100"),
        pytest.param(E.OutOfMemory("out of memory"), DatabaseFull, False, id="53200"),
        pytest.param(
            E.InternalError_('could not extend file "base/1/2": File too large'),
            DatabaseFull, False, id="XX000-file-too-large",
        ),
        pytest.param(E.IoError("No space left on device"), DatabaseFull, False, id="58030-full"),
        pytest.param(E.IoError("Input/output error"), DatabaseError, False, id="58030-broken"),
        pytest.param(E.InternalError_("cache lookup failed"), DatabaseError, False, id="XX000"),
        pytest.param(E.ReadOnlySqlTransaction("no"), DatabaseReadOnly, False, id="25006"),
        pytest.param(E.QueryCanceled("statement timeout"), DatabaseError, False, id="57014"),
        pytest.param(E.UniqueViolation("twice"), DatabaseError, False, id="23505"),
        pytest.param(psycopg.ProgrammingError("no such type"), DatabaseError, False, id="client"),
    ],
)  # fmt: skip
def test_what_a_refusal_means(
    error: psycopg.Error, kind: type[DatabaseError], passes: bool
) -> None:
    refused = refusal_of(error)

    assert (refused.kind, refused.passes) == (kind, passes)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        pytest.param(E.DiskFull("No space left on device"), "Make room", id="disk"),
        pytest.param(
            E.DiskFull('could not resize shared memory segment "/x": No space left on device'),
            "docker: shm_size", id="shared-memory",
        ),
        pytest.param(E.OutOfMemory("out of memory"), "run less at once", id="memory"),
        pytest.param(E.TooManyConnections("x"), "raise max_connections", id="connections"),
        pytest.param(E.QueryCanceled("x"), "cstatement_timeout", id="time-out"),
        pytest.param(E.UndefinedTable("x"), "SQLSTATE 42P01", id="any-other"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_to_do(error: psycopg.Error, advice: str) -> None:
    assert advice in refusal_of(error).sentence


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(E.CheckViolation("x"), True, id="23514"),
        pytest.param(E.NumericValueOutOfRange("x"), True, id="22003"),
        pytest.param(E.RaiseException("x"), True, id="P0001"),
        pytest.param(E.SerializationFailure("x"), False, id="40001"),
        pytest.param(E.DiskFull("x"), False, id="53100"),
        pytest.param(psycopg.OperationalError("x"), False, id="connection"),
    ],
)
def test_which_refusals_are_of_one_row(error: psycopg.Error, expected: bool) -> None:
    assert is_of_one_row(error) is expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        pytest.param("the database system is starting up", True, id="starting"),
        pytest.param("the database system is in recovery mode", True, id="recovering"),
        pytest.param('too many connections for role "u"', True, id="crowded"),
        pytest.param("Connection refused", False, id="refused"),
        pytest.param("could not translate host name", False, id="no-such-host"),
    ],
)
def test_a_server_that_answers_is_told_from_an_address_where_nobody_is(
    said: str, expected: bool
) -> None:
    assert refusal_of(psycopg.OperationalError(f"FATAL: {said}")).is_there is expected


def test_a_very_long_message_is_cut() -> None:
    assert quoted(E.RaiseException("word " * 500)) == ("word " * 60) + "…"
