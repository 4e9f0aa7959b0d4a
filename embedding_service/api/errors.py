"""Which status each refusal has, and the one shape that all of them are written in."""

from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from embedding_service.api.records import record_of
from embedding_service.errors import (
    BackendFailed,
    BadRequest,
    DeadlinePassed,
    Draining,
    EngineError,
    MemoryFull,
    NotAllowed,
    NotReady,
    QueueFull,
    Refused,
    TextEmpty,
    TextInvalid,
    TextRejected,
    TextTooLong,
    TooLarge,
    TooSlow,
)

STATUS: dict[type[EngineError], int] = {
    NotAllowed: 401,
    TooSlow: 408,
    TooLarge: 413,
    BadRequest: 422,
    TextRejected: 422,
    TextTooLong: 422,
    TextEmpty: 422,
    TextInvalid: 422,
    QueueFull: 429,
    MemoryFull: 429,
    BackendFailed: 500,
    Refused: 503,
    NotReady: 503,
    Draining: 503,
    DeadlinePassed: 504,
}


class ErrorResponse(Response):
    """``{"error": {"code", "message", …}}``; the request's record learns the code."""

    media_type = "application/json"

    def __init__(
        self, status: int, error: dict[str, Any], headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(orjson.dumps({"error": error}), status_code=status, headers=headers)
        self._code = str(error["code"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record_of(scope).code = self._code
        await super().__call__(scope, receive, send)


def error_response(error: EngineError) -> Response:
    """Return ``error`` as the caller sees it."""
    headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, NotAllowed) else {}
    if isinstance(error, Refused):
        headers["Retry-After"] = str(error.retry_after_s)
    body: dict[str, Any] = {"code": error.code, "message": str(error)}
    if isinstance(error, TextRejected):
        body["index"] = error.index
    return ErrorResponse(STATUS[type(error)], body, headers)


def internal_error() -> Response:
    """Return the answer to a request that met a bug; what it raised is not for the caller."""
    return ErrorResponse(500, {"code": "internal", "message": "a bug in the service"})


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
        return ErrorResponse(status, {"code": code, "message": detail}, headers)

    app.add_exception_handler(EngineError, refused)
    app.add_exception_handler(HTTPException, framework)
