"""uvicorn's connection with an end to every wait, and with our shape for what it refuses itself.

uvicorn alone waits without end for the rest of a head, for the rest of a body that nobody reads,
and for a reader who does not take the answer; a few thousand such callers would hold every socket.
And it loses the body of a request that offers to speak another protocol, or takes it for the next
request: Java's own client offers HTTP/2 in each.
"""

import asyncio
import http
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_logger = logging.getLogger(__name__)

# A head is some hundred bytes, sent at once; these are for broken lines, and for browsers' cookies.
_HEAD_S = 10
_MAX_HEAD_BYTES = 65_536
# How long a caller who was answered early may go on sending. Closing at once would answer those
# bytes with a reset, which takes away the answer before it has been read.
_LINGER_S = 5
_BUSY_RETRY_AFTER_S = 5
# How many beyond ``max_connections`` are told so. They linger as well, and have a file open each.
TOLD_THAT_THERE_IS_NO_ROOM = 128


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one connection, and all of them together, may take."""

    max_connections: int
    patience_s: float
    """For the reader to take a whole answer; nothing on a connection may take longer."""
    on_refused: Callable[[str], None]
    """Gets the code of each refusal that never became a request."""


class Connection(HttpToolsProtocol):
    """One caller's line. Everything here runs on the event loop."""

    def __init__(self, *args: Any, limits: ConnectionLimits, **named: Any) -> None:
        super().__init__(*args, **named)
        self._limits = limits
        self._head_s = min(_HEAD_S, limits.patience_s)
        self._linger_s = min(_LINGER_S, limits.patience_s)
        self._head_bytes = 0
        self._refused = False
        self._answer_complete = False
        self._head = _Deadline(self.loop)
        self._linger = _Deadline(self.loop)
        self._answer = _Deadline(self.loop)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Writing counts as paused until the last byte is with the kernel: whoever sends an answer
        # then knows when it has been taken, and what it holds can be counted until then.
        transport.set_write_buffer_limits(high=0)
        beyond = len(self.connections) - self._limits.max_connections
        if beyond > TOLD_THAT_THERE_IS_NO_ROOM:
            self._refused = True
            self._limits.on_refused("too_many_connections")
            transport.abort()
        elif beyond > 0 and not self._room_made():
            message = f"{self._limits.max_connections} connections are open already"
            self._refuse(503, "too_many_connections", message)
        else:
            self._await_head()

    def _room_made(self) -> bool:
        """Hang up on whoever has been silent for longest since an answer, if anyone is.

        Else callers who only keep their connections would shut all others out.
        """
        silent = [
            (one.timeout_keep_alive_task.when(), one.transport)
            for one in self.connections
            if isinstance(one, Connection)
            and one.timeout_keep_alive_task is not None
            and not one.transport.is_closing()
        ]
        if not silent:
            return False
        _, longest = min(silent, key=lambda found: found[0])
        longest.close()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._idle() and not self._head.running and not self._linger.running:
            self._await_head()
        self._feed(data)
        if self._head.running:
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._refuse(431, "head_too_large", f"expected at most {_MAX_HEAD_BYTES} bytes")

    def _feed(self, data: bytes) -> None:
        """Parse as uvicorn does, but a request that offers another protocol as any other.

        The parser ends such a request with its head. So the head is parsed once more, without the
        offer, and then what follows.
        """
        self._unset_keepalive_if_required()
        left = memoryview(data)
        try:
            while left:
                try:
                    self.parser.feed_data(left)
                    return
                except httptools.HttpParserUpgrade as ended:
                    left = left[ended.args[0] :]
                    head = self._head_without_offer()
                    # Another one: after a request that is the last on its line, this one is deaf.
                    self.parser = httptools.HttpRequestParser(self)
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                    self.parser.feed_data(head)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            # The second is CONNECT, which is another protocol without saying so in a header.
            self.send_400_response("Invalid HTTP request received.")

    def _head_without_offer(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._head.start(self._head_s, self._head_is_late)

    def _head_is_late(self) -> None:
        if self._head_bytes:
            self._refuse(408, "too_slow", f"the head of the request took over {self._head_s:g} s")
        else:
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self._head.running:
            # It follows another request in the same piece of data.
            self._await_head()

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._head.cancel()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        if self._linger.running:
            # Answered before its body was read to the end; now it is like any other.
            self._linger.cancel()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._answer_complete = True
        if not self.flow.write_paused:
            self._answer.cancel()
        if self._idle() and self.cycle.more_body and not self.transport.is_closing():
            self._linger.start(self._linger_s, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        if not self._answer.running:
            self._answer_complete = False
            self._answer.start(self._limits.patience_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        # Not whether the connection is idle: the next request may have come while this was sent.
        if self._answer_complete:
            self._answer.cancel()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "bad_request", msg)

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer what never becomes a request, and hang up when the answer has been taken."""
        self._refused = True
        self._stop_timers()
        self._unset_keepalive_if_required()
        if not self._idle():
            # An answer is under way on this line; a second one inside it would be read as its body.
            self.transport.abort()
            return
        self._limits.on_refused(code)
        request_id = uuid.uuid4().hex
        fields = {"request_id": request_id, "status": status, "code": code}
        _logger.info("refused", extra=fields)
        self.transport.write(_refusal(status, code, message, request_id))
        self.transport.write_eof()
        self._linger.start(self._linger_s, self.transport.abort)

    def _stop_timers(self) -> None:
        for deadline in (self._head, self._linger, self._answer):
            deadline.cancel()


class _Deadline:
    """Something that happens after a while unless it is cancelled; one at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    @property
    def running(self) -> bool:
        return self._timer is not None

    def start(self, seconds: float, action: Callable[[], None]) -> None:
        self.cancel()
        self._timer = self._loop.call_later(seconds, action)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _refusal(status: int, code: str, message: str, request_id: str) -> bytes:
    body = orjson.dumps({"error": {"code": code, "message": message}})
    lines = [
        f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        f"x-request-id: {request_id}",
        "connection: close",
    ]
    if status == http.HTTPStatus.SERVICE_UNAVAILABLE:
        lines.append(f"retry-after: {_BUSY_RETRY_AFTER_S}")
    return "\r\n".join([*lines, "", ""]).encode() + body
