"""The body of a request, read no further and no longer than it may take."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from starlette.requests import Request

from embedding_service.api.records import RequestRecord
from embedding_service.errors import BadRequest, DeadlinePassed, Draining, TooLarge, TooSlow

# A search; a bulk load has longer ones.
SHORT_BODY_BYTES = 32_768

_MILLISECONDS = re.compile("-?[0-9]{1,12}")


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """What one body may take."""

    max_bytes: int
    seconds: float


class Uploads:
    """The bodies that are arriving; all of them can be ended at once. On the event loop only."""

    def __init__(self) -> None:
        self.ended = False
        self._timeouts: set[asyncio.Timeout] = set()

    def end(self) -> None:
        """Wait for no body any more: nothing of it would be computed."""
        self.ended = True
        for timeout in self._timeouts:
            # One that has just run out refuses to be moved; its task has yet to notice.
            if not timeout.expired():
                timeout.reschedule(asyncio.get_running_loop().time())

    @contextlib.asynccontextmanager
    async def at_most(self, seconds: float) -> AsyncIterator[None]:
        """Raise ``TimeoutError`` after ``seconds``, or when all are ended."""
        async with asyncio.timeout(0 if self.ended else seconds) as timeout:
            self._timeouts.add(timeout)
            try:
                yield
            finally:
                self._timeouts.discard(timeout)


def deadline_of(request: Request, arrived: float) -> float | None:
    """Return the moment (``time.monotonic``) at which the caller's patience ends, if it says so.

    Raises:
        BadRequest: The header is not a whole number of milliseconds.
        DeadlinePassed: It is not positive.
    """
    header = request.headers.get("x-request-timeout-ms")
    if header is None:
        return None
    if not _MILLISECONDS.fullmatch(header.strip(" \t")):
        raise BadRequest("X-Request-Timeout-Ms: expected whole milliseconds, up to 12 digits")
    patience_ms = int(header)
    if patience_ms <= 0:
        raise DeadlinePassed("the deadline had passed when the request arrived")
    return arrived + patience_ms / 1000


async def read_body(
    request: Request,
    record: RequestRecord,
    limits: BodyLimits,
    uploads: Uploads,
    *,
    deadline: float | None,
    retry_after_s: Callable[[], int],
) -> bytes:
    """Return the whole body; what has arrived is held in the record's share of the memory.

    Raises:
        BadRequest: It is compressed.
        TooLarge: More than ``max_bytes``, announced or arrived.
        TooSlow: It is not there after ``seconds``.
        DeadlinePassed: It is not there when the caller's patience ends.
        MemoryFull: The requests that are there leave no room for it now.
        Draining: The service stops before it is there.
    """
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise BadRequest("Content-Encoding: expected identity; send the body uncompressed")
    record.holding.short = _announced(request, limits.max_bytes) <= SHORT_BODY_BYTES
    patience_s = limits.seconds
    if deadline is not None:
        patience_s = min(patience_s, deadline - time.monotonic())
    try:
        async with uploads.at_most(patience_s):
            return await _received(request, record, limits.max_bytes, retry_after_s)
    except TimeoutError:
        if uploads.ended:
            raise Draining("the service stops; the body was not there", retry_after_s()) from None
        if patience_s < limits.seconds:
            raise DeadlinePassed("the deadline passed before the body was there") from None
        raise TooSlow(f"the body took more than {limits.seconds:g} seconds to arrive") from None


def _announced(request: Request, max_bytes: int) -> int:
    """Return the length that the head gives, 0 if it gives none."""
    announced = request.headers.get("content-length", "0")
    # Of the server's own parser we know that these are digits.
    if len(announced) > len(str(max_bytes)) + 20 or int(announced) > max_bytes:
        raise _too_large(max_bytes)
    return int(announced)


async def _received(
    request: Request, record: RequestRecord, max_bytes: int, retry_after_s: Callable[[], int]
) -> bytes:
    """The limit holds for what arrives, whatever the headers announce."""
    chunks: list[bytes] = []
    async for chunk in request.stream():
        record.body_bytes += len(chunk)
        if record.body_bytes > max_bytes:
            raise _too_large(max_bytes)
        record.holding.short &= record.body_bytes <= SHORT_BODY_BYTES
        record.holding.set(record.body_bytes, retry_after_s=retry_after_s)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the body has more than {max_bytes} bytes; split the request")
