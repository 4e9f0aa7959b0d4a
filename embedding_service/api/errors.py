"""Which status each refusal has, and the one shape that all of them are written in."""

import logging
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from embedding_service.errors import (
    BackendFailed,
    BadRequest,
    DeadlinePassed,
    Draining,
    EngineError,
    NotAllowed,
    NotReady,
    QueueFull,
    Refused,
    TextEmpty,
    TextInvalid,
    TextRejected,
    TextTooLong,
    TooLarge,
)

_logger = logging.getLogger(__name__)

STATUS: dict[type[EngineError], int] = {
    NotAllowed: 401,
    TooLarge: 413,
    BadRequest: 422,
    TextRejected: 422,
    TextTooLong: 422,
    TextEmpty: 422,
    TextInvalid: 422,
    QueueFull: 429,
    BackendFailed: 500,
    Refused: 503,
    NotReady: 503,
    Draining: 503,
    DeadlinePassed: 504,
}


def error_response(error: EngineError) -> Response:
    """Return ``error`` as the caller sees it."""
    headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, NotAllowed) else {}
    if isinstance(error, Refused):
        headers["Retry-After"] = str(error.retry_after_s)
    body: dict[str, Any] = {"code": error.code, "message": str(error)}
    if isinstance(error, TextRejected):
        body["index"] = error.index
    return _written(STATUS[type(error)], body, headers)


def _written(status: int, error: dict[str, Any], headers: dict[str, str]) -> Response:
    body = orjson.dumps({"error": error})
    return Response(body, status_code=status, headers=headers, media_type="application/json")


def add_error_handlers(app: FastAPI) -> None:
    """Make every answer without vectors have the same shape, ours or not."""

    async def refused(_: Request, error: Exception) -> Response:
        if not isinstance(error, EngineError):
            raise RuntimeError("handed another error than registered for; this is a bug in api")
        return error_response(error)

    async def framework(_: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        detail = str(error.detail) if isinstance(error, HTTPException) else ""
        code = {404: "not_found", 405: "method_not_allowed"}.get(status, "bad_request")
        headers = dict(getattr(error, "headers", None) or {})
        return _written(status, {"code": code, "message": detail}, headers)

    async def unforeseen(_: Request, error: Exception) -> Response:
        # Its text may hold anything, a caller's text included: type only, and not to the caller.
        _logger.error("unforeseen %s", type(error).__name__)
        return _written(500, {"code": "internal", "message": "a bug in the service"}, {})

    app.add_exception_handler(EngineError, refused)
    app.add_exception_handler(HTTPException, framework)
    app.add_exception_handler(Exception, unforeseen)
