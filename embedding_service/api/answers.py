"""The bodies of our answers, as bytes."""

import base64
import dataclasses
from dataclasses import dataclass
from typing import Any

import orjson

from embedding_service.backend.base import Backend, Space, Vectors
from embedding_service.engine.admission import Admitted


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client must know to split its work by itself; all are at least 1."""

    max_texts: int
    max_tokens_per_text: int
    max_batch_tokens: int
    server_batch_size: int
    max_queue_tokens: int
    """Of documents: one request holds no more."""
    max_query_queue_tokens: int
    """The same for ``input_type`` query."""
    max_body_bytes: int
    max_chars_per_text: int
    """Without the white space around it: a longer one is too long, however few tokens it has."""


def vectors_body(
    vectors: Vectors, *, admitted: Admitted, space: Space, encoding_format: str
) -> bytes:
    """Return one item per row of ``vectors``, in order, in the shape that OpenAI's clients read."""
    tokens = [len(ids) for ids in admitted.ids]
    rows = _base64(vectors) if encoding_format == "base64" else list(vectors)
    items = [
        {
            "object": "embedding",
            "index": index,
            "embedding": row,
            "tokens": tokens[index],
            "truncated": admitted.truncated[index],
        }
        for index, row in enumerate(rows)
    ]
    body = {
        "object": "list",
        "model": space.model,
        "data": items,
        "usage": {"prompt_tokens": sum(tokens), "total_tokens": sum(tokens)},
        "space": space.id,
    }
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def _base64(vectors: Vectors) -> list[Any]:
    little_endian = vectors.astype("<f4", copy=False)
    return [base64.b64encode(row.tobytes()).decode() for row in little_endian]


def info_body(backend: Backend, limits: Limits, version: str) -> bytes:
    """Return what is served here: model, space with all its ingredients, and limits."""
    space = backend.space
    return orjson.dumps(
        {
            "model": space.model,
            "revision": space.revision,
            "device": backend.device,
            "cores": backend.cores,
            "runtime": backend.runtime,
            "precision": backend.precision,
            "dimensions": space.dimensions,
            "max_tokens": backend.max_tokens,
            "prompts": dataclasses.asdict(backend.prompts),
            "tokenizer_sha256": space.tokenizer_sha256,
            "space": {"id": space.id, **dataclasses.asdict(space)},
            "limits": dataclasses.asdict(limits),
            "version": version,
        }
    )
