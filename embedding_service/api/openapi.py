"""What ``/openapi.json`` says of each path beyond its schema: parameters, statuses, examples."""

from typing import Any

from fastapi import Security
from fastapi.security import HTTPBearer
from pydantic import BaseModel

from embedding_service.api.answer_schemas import EmbeddingAnswer, ErrorAnswer
from embedding_service.api.schemas import EmbeddingRequest

Responses = dict[int | str, dict[str, Any]]

# Only for the document: the key is checked long before a route is looked for.
NEEDS_KEY = Security(
    HTTPBearer(
        scheme_name="key",
        description="One of EMBEDDING_API_KEY; not asked for where the service has none.",
        auto_error=False,
    )
)

REQUEST_ID = {
    "name": "X-Request-Id",
    "in": "header",
    "description": "Comes back in the answer and stands in the log; made up if it is missing or "
    "is not 1 to 128 visible ASCII characters.",
    "schema": {"type": "string"},
    "example": "partition-2024-batch-7",
}
_PATIENCE = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "description": "How long the caller will wait: nothing is computed for it after that.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 10**12 - 1},
    "example": 240_000,
}


def _header(description: str, kind: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": kind}}


_ID_BACK = {"X-Request-Id": _header("The caller's, or a new one.", "string")}
_COME_BACK = {
    status: {
        "Retry-After": {"description": said, "schema": {"type": "integer", "minimum": 1}},
    }
    for status, said in (
        (429, "Seconds, computed from the work that waits."),
        (503, "Seconds: computed from the work that waits when stopping, else a few."),
    )
}
_MEASURED = {
    "X-Queue-Tokens": _header("Tokens that wait now.", "integer"),
    "X-Tokens-Per-Second": _header("Recent speed of the model.", "number"),
    "X-Wait-Seconds": _header("What the request spent waiting.", "number"),
    "X-Compute-Seconds": _header("What the model spent on its batches.", "number"),
}

# Status: description, then the code, message and index of an example.
_ERRORS: dict[int, tuple[str, str, str, int | None]] = {
    400: ("Not HTTP.", "bad_request", "Invalid HTTP request received.", None),
    401: (
        "No key, or a wrong one.",
        "not_allowed",
        "expected the service's key as 'Authorization: Bearer …'",
        None,
    ),
    408: (
        "Head or body took too long to arrive.",
        "too_slow",
        "the body took more than 60 seconds to arrive",
        None,
    ),
    413: (
        "Could never fit; split it.",
        "too_large",
        "3000 texts; at most 2048 fit one request",
        None,
    ),
    422: ("Malformed, or a text that cannot be embedded.", "text_empty", "text 3 is empty", 3),
    429: (
        "The line or the memory is full (queue_full, memory_full); come back later.",
        "queue_full",
        "2097152 of at most 2097152 tokens of document texts wait already",
        None,
    ),
    431: ("The head is too large.", "head_too_large", "expected at most 65536 bytes", None),
    500: (
        "The model failed on this batch (model_failed), or a bug (internal); the next one runs.",
        "model_failed",
        "the model failed on a batch that held a text of this request",
        None,
    ),
    503: (
        "Starting, broken or stopping (not_ready, draining), or too many connections.",
        "not_ready",
        "the model is loading",
        None,
    ),
    504: (
        "The caller's deadline passed first.",
        "deadline_passed",
        "no vectors within the deadline",
        None,
    ),
}


def errors(*statuses: int) -> Responses:
    """Return what the document says of these statuses."""
    return {status: _error(status) for status in statuses}


def _error(status: int) -> dict[str, Any]:
    description, code, message, index = _ERRORS[status]
    example: dict[str, Any] = {"code": code, "message": message}
    if index is not None:
        example["index"] = index
    return {
        "description": description,
        "model": ErrorAnswer,
        "headers": _ID_BACK | _COME_BACK.get(status, {}),
        "content": {"application/json": {"example": {"error": example}}},
    }


def success(description: str, model: type[BaseModel]) -> Responses:
    return {200: {"description": description, "model": model, "headers": _ID_BACK}}


def _plain_success(description: str, media_type: str, schema: dict[str, Any]) -> Responses:
    content = {media_type: {"schema": schema}}
    return {200: {"description": description, "headers": _ID_BACK, "content": content}}


TOKENIZER = _plain_success(
    "As the tokenizers library reads it.", "application/json", {"type": "object"}
)
METRICS = _plain_success("Prometheus' text format.", "text/plain", {"type": "string"})


def embeddings_responses() -> Responses:
    found = success("One vector for each text.", EmbeddingAnswer)
    found[200]["headers"] = _ID_BACK | _MEASURED
    found[200]["content"] = {"application/json": {"example": _ANSWER}}
    return found | errors(*_ERRORS)


def embeddings_operation() -> dict[str, Any]:
    """Return body and parameters of ``POST /embeddings``."""
    content = {"schema": EmbeddingRequest.model_json_schema(), "examples": _REQUESTS}
    return {
        "requestBody": {"required": True, "content": {"application/json": content}},
        "parameters": [REQUEST_ID, _PATIENCE],
    }


_REQUESTS = {
    "one": {"summary": "One text", "value": {"input": "The Board left the cash rate unchanged."}},
    "several": {
        "summary": "Passages to be searched, cut where they are too long",
        "value": {
            "input": ["Inflation has eased.", "Growth in wages has picked up."],
            "truncate": True,
        },
    },
    "search": {
        "summary": "What somebody searches for",
        "value": {"input": ["why did rates rise?"], "input_type": "query"},
    },
    "openai": {
        "summary": "As OpenAI's client asks",
        "value": {"input": ["as is"], "model": "default", "encoding_format": "base64"},
    },
}
_ANSWER = {
    "object": "list",
    "model": "all-MiniLM-L6-v2",
    "data": [
        {
            "object": "embedding",
            "index": 0,
            "embedding": [0.6, -0.8],
            "tokens": 10,
            "truncated": False,
        }
    ],
    "usage": {"prompt_tokens": 10, "total_tokens": 10},
    "space": "9d2f0c51a7e84b36b1f05ac2d3e4f687",
}
