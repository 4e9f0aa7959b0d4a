"""The outermost layer: every request gets a record, an id in its answer, and a line in the log.

Nothing that a request raises goes further out: an exception's text may hold anything, a caller's
text included.
"""

import logging
import traceback

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embedding_service.api.errors import internal_error
from embedding_service.api.memory import RequestMemory
from embedding_service.api.metrics import Metrics
from embedding_service.api.records import EMBEDDING_PATHS, RequestRecord, begin_record

_logger = logging.getLogger(__name__)


class RequestLog:
    """Serves ``app``; counts and logs what became of each request, and takes its memory back."""

    def __init__(self, app: ASGIApp, *, memory: RequestMemory, metrics: Metrics) -> None:
        self._app = app
        self._memory = memory
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = begin_record(scope, self._memory.holding())

        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                own = (b"x-request-id", record.request_id.encode())
                message = {**message, "headers": [*message["headers"], own]}
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except Exception as error:  # noqa: BLE001 - handed to the caller, without its text
            _logger.error(
                "unforeseen %s\n%s",
                type(error).__name__,
                "".join(traceback.format_tb(error.__traceback__)),
                extra={"request_id": record.request_id},
            )
            if record.status is None:
                await internal_error()(scope, receive, observed)
        finally:
            record.until_sent.close()
            record.holding.release()
            self._finish(record)

    def _finish(self, record: RequestRecord) -> None:
        self._metrics.answered(record)
        # A supervisor's questions would bury the rest.
        level = logging.INFO if record.served_path in EMBEDDING_PATHS else logging.DEBUG
        _logger.log(level, "request", extra=record.fields())
