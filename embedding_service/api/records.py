"""What is known about one request while it is served."""

import time
import uuid
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Scope

from embedding_service.api.memory import Holding

EMBEDDING_PATHS = ("/embeddings", "/v1/embeddings")

_MAX_ID_CHARS = 128
_MAX_PATH_CHARS = 200


@dataclass(slots=True)
class RequestRecord:
    """Filled in by whoever learns something; no text and no key is ever among it."""

    request_id: str
    method: str
    path: str
    """As it was sent, still percent-encoded, at most 200 characters."""
    served_path: str
    """As it was decoded, which is what it is served by."""
    holding: Holding
    until_sent: ExitStack = field(default_factory=ExitStack)
    """Left when the answer has been sent, or cannot be."""
    began_at: float = field(default_factory=time.monotonic)
    status: int | None = None
    """None until an answer begins; 499 for a caller who left before."""
    code: str | None = None
    """Of the error that was answered with."""
    body_bytes: int = 0
    """As far as the body was read."""
    texts: int | None = None
    tokens: int | None = None
    wait_s: float | None = None
    compute_s: float | None = None

    @property
    def age_s(self) -> float:
        return time.monotonic() - self.began_at

    def fields(self) -> dict[str, Any]:
        """Return what goes into the log."""
        return {
            "request_id": self.request_id,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "code": self.code,
            "texts": self.texts,
            "tokens": self.tokens,
            "wait_s": _rounded(self.wait_s),
            "compute_s": _rounded(self.compute_s),
            "duration_s": _rounded(self.age_s),
            "bytes": self.body_bytes,
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


def begin_record(scope: Scope, holding: Holding) -> RequestRecord:
    """Make the record of the request in ``scope``, and keep it there."""
    record = RequestRecord(
        request_id=_request_id(scope["headers"]),
        method=scope["method"],
        path=scope["raw_path"].decode("ascii", "backslashreplace")[:_MAX_PATH_CHARS],
        served_path=scope["path"],
        holding=holding,
    )
    scope.setdefault("state", {})["record"] = record
    return record


def record_of(scope: Scope) -> RequestRecord:
    record: RequestRecord = scope["state"]["record"]
    return record


def _request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the caller's own id if it can stand in a header and in a log, else a new one."""
    shown = next((value for name, value in headers if name == b"x-request-id"), b"")
    if 0 < len(shown) <= _MAX_ID_CHARS and all(b"!"[0] <= char <= b"~"[0] for char in shown):
        return shown.decode("ascii")
    return uuid.uuid4().hex
