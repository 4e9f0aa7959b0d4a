"""The paths of the service."""

import dataclasses
from collections.abc import Callable
from typing import Any

import orjson
from fastapi import APIRouter, Response

from embedding_service.api.answer_schemas import (
    HealthAnswer,
    InfoAnswer,
    LiveAnswer,
    ReadyAnswer,
)
from embedding_service.api.answers import Limits, info_body
from embedding_service.api.embeddings import Embeddings
from embedding_service.api.metrics import CONTENT_TYPE, Metrics
from embedding_service.api.openapi import (
    METRICS,
    NEEDS_KEY,
    REQUEST_ID,
    TOKENIZER,
    Responses,
    embeddings_operation,
    embeddings_responses,
    errors,
    success,
)
from embedding_service.api.records import EMBEDDING_PATHS
from embedding_service.api.security import OPEN_PATHS
from embedding_service.engine.engine import Engine
from embedding_service.engine.lifecycle import Lifecycle


class Routes:
    """Answers over one ``Lifecycle``."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        *,
        embeddings: Embeddings,
        metrics: Metrics,
        limits: Callable[[Engine], Limits],
        version: str,
    ) -> None:
        self._lifecycle = lifecycle
        self._embeddings = embeddings
        self._metrics = metrics
        self._limits = limits
        self._version = version

    def router(self) -> APIRouter:
        router = APIRouter()
        for path in EMBEDDING_PATHS:
            router.add_api_route(
                path,
                self._embeddings.answer,
                methods=["POST"],
                summary="Embed texts",
                dependencies=[NEEDS_KEY],
                responses=embeddings_responses(),
                response_class=Response,
                openapi_extra=embeddings_operation(),
            )
        self._get(router, "/live", self.live, success("The process answers.", LiveAnswer))
        self._get(router, "/ready", self.ready, success("Ready.", ReadyAnswer))
        self._get(router, "/health", self.health, success("State and counters.", HealthAnswer))
        self._get(router, "/info", self.info, success("What is served.", InfoAnswer))
        self._get(router, "/tokenizer.json", self.tokenizer, TOKENIZER)
        self._get(router, "/metrics", self.metrics, METRICS)
        return router

    @staticmethod
    def _get(
        router: APIRouter,
        path: str,
        answer: Callable[..., Any],
        responses: Responses,
    ) -> None:
        open_to_all = path in OPEN_PATHS
        router.add_api_route(
            path,
            answer,
            methods=["GET"],
            dependencies=[] if open_to_all else [NEEDS_KEY],
            responses=responses | errors(400, 408, 431, 503) | ({} if open_to_all else errors(401)),
            openapi_extra={"parameters": [REQUEST_ID]},
            # FastAPI's own would put an empty schema beside ours.
            response_class=Response,
        )

    async def live(self) -> Response:
        """Answers as long as the process does."""
        return _json({"live": True})

    async def ready(self) -> Response:
        """200 once warm-up and self-test have passed; 503 before, while draining, when broken."""
        self._lifecycle.engine()
        return _json({"ready": True})

    async def health(self) -> Response:
        """Both, with model, device and counters; 200 whatever the state."""
        engine = self._lifecycle.loaded
        stats = self._lifecycle.stats.snapshot(engine.queue_tokens if engine else 0)
        return _json(
            {
                "live": True,
                "ready": self._lifecycle.ready,
                "model": engine.backend.space.model if engine else None,
                "device": engine.backend.device if engine else None,
                "stats": stats,
            }
        )

    async def info(self) -> Response:
        """What is served: model, space, limits, prompts."""
        engine = self._lifecycle.engine()
        limits = dataclasses.replace(self._limits(engine), max_tokens_per_text=engine.longest_text)
        body = info_body(engine.backend, limits, self._version)
        return Response(body, media_type="application/json")

    async def tokenizer(self) -> Response:
        """The tokenizer without truncation and padding, for exact counts on the client's side."""
        body = self._lifecycle.engine().backend.tokenizer_json
        return Response(body, media_type="application/json")

    async def metrics(self) -> Response:
        """Every figure, as Prometheus reads it; 200 whatever the state."""
        return Response(self._metrics.page(), headers={"Content-Type": CONTENT_TYPE})


def _json(content: object) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
