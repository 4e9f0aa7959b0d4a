"""What Postgres means when it refuses: which of our errors, one sentence, and whether it passes.

SQLSTATEs are those of appendix A of PostgreSQL's manual.
"""

from dataclasses import dataclass, replace

import psycopg

from rba_pipeline.core.errors import (
    DatabaseBusy,
    DatabaseError,
    DatabaseFull,
    DatabaseReadOnly,
    DatabaseUnavailable,
)
from rba_pipeline.resources.locks import TurnMissed

# Connection exception; ended by an administrator, crash of another backend, not up yet, idle for
# longer than the server's own bounds allow, in a transaction or outside.
_LOST = ("08", "57P01", "57P02", "57P03", "57P05", "25P03")
# Serialization failure, deadlock, completion unknown, lock not available, too many connections.
_BUSY = ("40001", "40P01", "40003", "55P03", "53300")
# Disk full, out of memory.
_FULL = ("53100", "53200")
# A file-size limit and a broken disk have no state of their own: internal error, I/O error.
_UNNAMED = ("XX000", "58030")
_NO_ROOM = ("could not extend file", "File too large", "No space left", "quota exceeded")
_READ_ONLY = "25006"
# While connecting there is no SQLSTATE. Somebody is there, and will let us in later.
_CROWDED = ("too many clients", "too many connections", "connection slots are reserved")
_NOT_YET = ("is starting up", "is shutting down", "in recovery mode", "not yet accepting")
# These do not pass by themselves.
_HOPELESS = (
    "authentication failed", "does not exist", "pg_hba.conf", "no password supplied",
    "invalid value for parameter", "unrecognized configuration parameter",
    "unsupported startup parameter",
)  # fmt: skip
# Data exception, integrity violation, and what a trigger raises without a state of its own.
_OF_ONE_ROW = ("22", "23", "P0001")
_LONGEST_QUOTE = 300


@dataclass(frozen=True, slots=True)
class Refusal:
    """What follows from an error of Postgres.

    Attributes:
        sentence: For people; neither password nor row, whose text Postgres may quote as well.
        is_lost: The connection is gone, or about to go.
        passes: The same may succeed later.
        is_there: The server itself said so: its address is right, whatever else is not.
        is_lock: Somebody else held a lock for too long.
    """

    kind: type[DatabaseError]
    sentence: str
    is_lost: bool = False
    passes: bool = False
    is_there: bool = False
    is_lock: bool = False


def refusal_of(error: psycopg.Error) -> Refusal:
    """Return what ``error`` means; what is not known to pass does not."""
    state, said = error.sqlstate or "", quoted(error)
    if not state and any(words in said for words in _CROWDED):
        return _busy("53300", said)
    if state.startswith(_LOST) or (not state and isinstance(error, psycopg.OperationalError)):
        return _unavailable(said)
    if state in _BUSY:
        return replace(_busy(state, said), passes=not isinstance(error, TurnMissed))
    if state in _FULL or (state in _UNNAMED and any(words in said for words in _NO_ROOM)):
        return Refusal(DatabaseFull, _no_room(state, said))
    if state == _READ_ONLY:
        return Refusal(
            DatabaseReadOnly,
            f"it takes no changes ({said}). Let RBA_DATABASE_URL name the primary server, or "
            "switch default_transaction_read_only off; then run again",
        )
    if isinstance(error, psycopg.errors.QueryCanceled):
        return Refusal(
            DatabaseError,
            f"{said}. If nobody cancelled it, add options=-cstatement_timeout=… in milliseconds "
            "to RBA_DATABASE_URL",
        )
    return Refusal(DatabaseError, f"{said} (SQLSTATE {state})" if state else said)


def is_of_one_row(error: psycopg.Error) -> bool:
    """Return whether another row in place of this one could have been taken."""
    return (error.sqlstate or "").startswith(_OF_ONE_ROW)


def quoted(error: psycopg.Error) -> str:
    """Return Postgres' primary message in one line: its details may quote a row."""
    said = " ".join((error.diag.message_primary or str(error)).split())
    return said if len(said) <= _LONGEST_QUOTE else f"{said[:_LONGEST_QUOTE]}…"


def _unavailable(said: str) -> Refusal:
    return Refusal(
        DatabaseUnavailable,
        f"{said}. Start the database (make up) or correct RBA_DATABASE_URL, then run again: "
        "nothing is lost, nothing comes twice",
        is_lost=True,
        passes=not any(words in said for words in _HOPELESS),
        is_there=any(words in said for words in _NOT_YET),
    )


def _busy(state: str, said: str) -> Refusal:
    if state == "55P03":
        sentence = f"another session held a lock for too long ({said}). Run again when it is done"
        return Refusal(DatabaseBusy, sentence, passes=True, is_lock=True)
    if state == "53300":
        sentence = f"{said}. Run less at once, or raise max_connections"
        return Refusal(DatabaseBusy, sentence, passes=True, is_there=True)
    sentence = f"other transactions were in the way ({said}). Run again when they are done"
    return Refusal(DatabaseBusy, sentence, passes=True)


def _no_room(state: str, said: str) -> str:
    if "shared memory" in said:
        return (
            f"the server has too little shared memory ({said}). Give it more (docker: shm_size), "
            "or set max_parallel_maintenance_workers = 0; then run again"
        )
    if state == "53200":
        return f"the server is out of memory ({said}). Give it more, or run less at once"
    return (
        f"its disk is full, or a limit on the size of files is reached ({said}). Make room, then "
        "run again: nothing of this was kept, and what was done before stays"
    )
