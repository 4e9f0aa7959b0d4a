"""Every failure the pipeline raises on purpose.

RbaError
├── BadSetting              a value from the user is outside its range; change it
├── DocumentRejected        this file cannot become a document as it is; quarantine it
│   └── ParsingStopped        beyond a limit, or it broke the parser; other limits may take it
├── ParserUnavailable       no file can be parsed just now; quarantine none, try again later
├── SourceUnavailable       the publications cannot be listed; nothing was changed
├── RecordMissing           what this step reads was not made yet, or for other settings
├── RecordFull              no room for the record; make room, what was kept is still there
├── RecordDamaged           a file of the record is broken; never taken for an absent one
├── ChecksFailed            what is kept is not as promised, see ``core.promises``; stop
├── EmbeddingError          the embedding service did not give us vectors
│   ├── ServiceOverloaded     full; come again after ``retry_after_s`` (HTTP 429)
│   ├── ServiceUnavailable    unreachable, starting or draining; back off, try another address
│   │   └── RequestTimedOut     no whole answer within the deadline; fewer texts may help
│   ├── ModelFailed           failed inside on this request (HTTP 500); a text may be why
│   ├── NotAllowed            the service refuses our key (HTTP 401, 403); stop
│   ├── TextRejected          one text can never be embedded (HTTP 422 with an index)
│   ├── RequestTooLarge       too much in one request (HTTP 413); split it
│   ├── RequestRejected       the request is wrong as a whole (other 4xx); stop
│   ├── ContractBroken        the answer does not fit the request; nothing of it was kept; stop
│   ├── WrongSpace            the service answers from another embedding space than before; stop
│   └── VectorsDrifted        the same space, but other vectors than before; stop
└── DatabaseError           Postgres did not do what we asked
    ├── DatabaseUnavailable   cannot connect, or the connection was lost; try again later
    ├── DatabaseBusy          another transaction was in the way; try again later
    ├── DatabaseFull          no room on its disk or in its memory; make room, do not retry
    ├── DatabaseReadOnly      it takes no changes; change that, do not retry
    ├── SchemaMismatch        the schema is older or newer than this code
    └── HoleInPartition       a chunk has neither row nor quarantine entry
"""

from typing import ClassVar


class RbaError(Exception):
    """Base of all; its text is meant for the person who launched the run.

    Attributes:
        hint: What to do, for a kind whose messages only say what happened.
    """

    hint: ClassVar[str] = ""


class BadSetting(RbaError, ValueError):
    """A value from the user is outside its range; the message says where to set it."""


class DocumentRejected(RbaError):
    """A file cannot become a document: ``reason`` is a stable code, ``detail`` for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class ParsingStopped(DocumentRejected):
    """A limit stopped the parsing of a file, or the parser broke. Try again under other limits."""


class ParserUnavailable(RbaError):
    """The parser process cannot be started. No file is to blame; what was parsed is kept."""


class SourceUnavailable(RbaError):
    """The source cannot be listed. Never taken for an empty source: nothing is deleted."""


class RecordMissing(RbaError):
    """What this step reads is not there. The message says which asset to materialise."""


class RecordFull(RbaError):
    """The record's disk takes no more: it is full, or may only be read."""


class RecordDamaged(RbaError):
    """A file of the record cannot be read. The message names it; removing it is for people."""


class EmbeddingError(RbaError):
    """The embedding service did not give us vectors."""


class ServiceOverloaded(EmbeddingError):
    """The service is full. Send the same again after ``retry_after_s`` seconds; no text is why."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ServiceUnavailable(EmbeddingError):
    """Refused, cut off, starting, draining. Back off, ``retry_after_s`` at least if it is told."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RequestTimedOut(ServiceUnavailable):
    """No whole answer within the deadline of the request; a late one is not read."""


class ModelFailed(EmbeddingError):
    """The service failed inside on this request. If others succeed, one of its texts is why."""

    hint = "See whether the service has memory enough"


class NotAllowed(EmbeddingError):
    """The service refuses the key. Check ``EMBEDDING_API_KEY``; retrying cannot help."""


class TextRejected(EmbeddingError):
    """The text at ``index`` of the request can never be embedded. Its neighbours can."""

    hint = "See the log of the service: this is nothing that it should refuse"

    def __init__(self, message: str, index: int, reason: str) -> None:
        super().__init__(message)
        self.index = index
        self.reason = reason


class RequestTooLarge(EmbeddingError):
    """More than fits one request. Split it; one text alone can never be taken by the service that
    said so with its ``code``. Without one it was somebody on the way, a proxy for instance.
    """

    hint = "See that a single text fits into a request"

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class RequestRejected(EmbeddingError):
    """The service refuses the request as a whole; retrying the same cannot help."""

    hint = "Compare the version of the service, and look for a proxy that answers in its place"


class ContractBroken(EmbeddingError):
    """An answer does not fit its request (count, index, dimension, norm); none of it is kept."""

    hint = (
        "Look at what listens there: another program, a proxy that changes answers, or another "
        "version of the service"
    )


class WrongSpace(EmbeddingError):
    """The service answers from another embedding space than the run, or search, began with."""


class VectorsDrifted(EmbeddingError):
    """The service names the same space as before, and gives other vectors. Do not mix them."""


class DatabaseError(RbaError):
    """Postgres did not do what we asked; the transaction was rolled back."""


class DatabaseUnavailable(DatabaseError):
    """No connection, or it was lost for longer than we try again. Whatever was begun is kept whole
    or not at all; repeating it is safe.
    """


class DatabaseBusy(DatabaseError):
    """Another transaction was in the way for too long. Rolled back; retry later."""


class DatabaseFull(DatabaseError):
    """The server has no room on its disk or in its memory. Rolled back; stop until there is."""


class DatabaseReadOnly(DatabaseError):
    """The server takes no changes: a standby, or switched so. Stop until that is changed."""


class SchemaMismatch(DatabaseError):
    """The schema is not the one this code works with; the message says what to run."""


class HoleInPartition(DatabaseError):
    """A chunk has no row, and no quarantine entry says why. Nothing was published."""
