"""What the service answered, read and checked: what it is, vectors, figures and refusals."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rba_pipeline.core.embeddings import Space, decode_vectors
from rba_pipeline.core.errors import (
    ContractBroken,
    EmbeddingError,
    ModelFailed,
    NotAllowed,
    RequestRejected,
    RequestTimedOut,
    RequestTooLarge,
    ServiceOverloaded,
    ServiceUnavailable,
    TextRejected,
    WrongSpace,
)
from rba_pipeline.core.stages import RequestSeconds
from rba_pipeline.resources.deadline_http import Reply

# Of one text: no model takes as many.
_MOST_TOKENS = 1 << 20


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """What the service says of itself before work begins (``GET /info``)."""

    space: Space
    device: str
    cores: int
    max_tokens: int
    max_texts: int
    server_batch_size: int
    max_queue_tokens: int
    document_prompt: str
    tokenizer_sha256: str


@dataclass(frozen=True, slots=True)
class Vectors:
    """One answer: float32 ``(n, dimensions)`` and tokens per text, in the order of the request.

    ``took`` is nothing where the service did not say what it did meanwhile.
    """

    vectors: NDArray[np.float32]
    tokens: tuple[int, ...]
    truncated: tuple[bool, ...]
    took: RequestSeconds = field(default_factory=RequestSeconds)


@dataclass(frozen=True, slots=True)
class Work:
    """What the service's models did since they started.

    Attributes:
        busy_s: Wall seconds in the model.
        padded_tokens: Tokens computed, padding included.
    """

    busy_s: float
    tokens: float
    padded_tokens: float


def info_of(reply: Reply, address: str) -> ServiceInfo:
    """Return what the service at ``address`` says of itself.

    Raises:
        ContractBroken: It is not an embedding_service.
    """
    body = json_of(reply, address)
    try:
        info = ServiceInfo(
            space=Space(
                id=str(body["space"]["id"]),
                model=str(body["model"]),
                dimensions=int(body["dimensions"]),
                details=dict(body["space"]),
            ),
            device=str(body["device"]),
            cores=int(body["cores"]),
            max_tokens=int(body["max_tokens"]),
            max_texts=int(body["limits"]["max_texts"]),
            server_batch_size=int(body["limits"]["server_batch_size"]),
            max_queue_tokens=int(body["limits"]["max_queue_tokens"]),
            document_prompt=str(body["prompts"]["document"]),
            tokenizer_sha256=str(body["tokenizer_sha256"]),
        )
        if min(info.space.dimensions, info.max_tokens, info.max_texts) < 1:
            raise ValueError("dimensions, max_tokens and max_texts are 1 or more")
        return info
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ContractBroken(
            f"{address}/info is not that of an embedding_service ({error!r}): check "
            "EMBEDDING_API_URL"
        ) from error


def within_all(info: ServiceInfo, told: Iterable[ServiceInfo]) -> ServiceInfo:
    """Return ``info`` with the least of the limits ``told``: any request may go to any address."""
    told = list(told)
    return replace(
        info,
        max_texts=min(each.max_texts for each in told),
        server_batch_size=min(each.server_batch_size for each in told),
        max_queue_tokens=min(each.max_queue_tokens for each in told),
    )


def check_space(told: object, info: ServiceInfo, address: str) -> None:
    """Refuse ``told``, the space that ``address`` names, if it is another than ``info.space``."""
    if told != info.space.id:
        raise WrongSpace(
            f"{address} answers from embedding space {told}, this run began in "
            f"{info.space.id} ({info.space.model}). The service was restarted with another "
            "model: restart it with the first one, or run the partition again to embed it in "
            "the new space"
        )


def vectors_of(
    reply: Reply, address: str, *, texts: int, info: ServiceInfo, truncate: bool
) -> Vectors:
    """Return the vectors of a request for ``texts`` texts, in its order.

    Args:
        info: The service as the run began with it.
        truncate: Whether texts may have been cut.

    Raises:
        WrongSpace: The answer comes from another space than ``info.space``.
        ContractBroken: Not one whole unit vector per text, or a text was cut without leave.
    """
    began = time.monotonic()
    body = json_of(reply, address)
    check_space(body.get("space"), info, address)
    data = body.get("data")
    if not isinstance(data, list):
        raise ContractBroken(f"{address}: the answer has no list 'data'")
    try:
        vectors = decode_vectors(data, count=texts, dimensions=info.space.dimensions)
    except ContractBroken as error:
        raise ContractBroken(f"{address}: {error}") from error
    data = sorted(data, key=lambda item: int(item["index"]))
    truncated = tuple(bool(item.get("truncated")) for item in data)
    if any(truncated) and not truncate:
        raise ContractBroken(f"{address}: text {truncated.index(True)} was cut without leave")
    tokens = _token_counts(data, address)
    return Vectors(vectors, tokens, truncated, _took(reply, time.monotonic() - began))


def json_of(reply: Reply, address: str) -> dict[str, Any]:
    """Return the object that a good reply holds.

    Raises:
        ContractBroken: It holds none, or says that it is something else.
    """
    kind = reply.headers.get("Content-Type", "application/json")
    if "json" not in kind.lower():
        raise ContractBroken(f"{address} answered 200 with a body that is not JSON but {kind}")
    try:
        body = reply.json()
    except (ValueError, RecursionError) as error:
        raise ContractBroken(f"{address} answered 200 with a body that is not JSON") from error
    if not isinstance(body, dict):
        raise ContractBroken(f"{address} answered 200 with JSON that is not an object")
    return body


def _token_counts(data: Sequence[dict[str, Any]], address: str) -> tuple[int, ...]:
    counts = tuple(item.get("tokens", 0) for item in data)
    for index, count in enumerate(counts):
        if type(count) is not int or not 0 <= count <= _MOST_TOKENS:
            raise ContractBroken(
                f"{address}: text {index} has tokens={count!r:.40}, not a whole number from 0 to "
                f"{_MOST_TOKENS}"
            )
    return counts


def _took(reply: Reply, decoded_s: float) -> RequestSeconds:
    """Return where a request's time went; nothing if the service's headers do not say it."""
    try:
        waited, computed = (
            float(reply.headers[name]) for name in ("X-Wait-Seconds", "X-Compute-Seconds")
        )
    except (KeyError, ValueError):
        return RequestSeconds()
    if not (math.isfinite(waited + computed) and min(waited, computed) >= 0):
        return RequestSeconds()
    return RequestSeconds(reply.seconds, waited, computed, decoded_s, told=1)


def refusal_of(reply: Reply, address: str) -> EmbeddingError:
    """Return the error that the status code and the service's error body stand for."""
    code, message, index = _error_body(reply)
    told = f"{address} answered {reply.status} {code}: {message}"
    match reply.status:
        case 401 | 403:
            return NotAllowed(f"{address} refuses the key: check EMBEDDING_API_KEY")
        case 413 if not code:
            return RequestTooLarge(
                f"{address} answered 413 in another form than the embedding_service does: "
                "something in between, a proxy for instance, refuses requests of this size. Let it "
                "take larger ones (nginx: client_max_body_size)"
            )
        case 413:
            return RequestTooLarge(told, code)
        case 422 if index is not None:
            return TextRejected(told, index, code)
        case 429:
            return ServiceOverloaded(told, _retry_after_s(reply))
        case 500:
            return ModelFailed(told)
        case 408 | 504:
            return RequestTimedOut(told)
        case status if status > 500:
            return ServiceUnavailable(told, _retry_after_s(reply))
        case _:
            return RequestRejected(told)


def _error_body(reply: Reply) -> tuple[str, str, int | None]:
    try:
        error: Any = reply.json()
        error = error["error"]
        index = error.get("index")
        return str(error["code"]), str(error["message"]), index if isinstance(index, int) else None
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return "", "is this address the embedding_service? It gave no error body", None


def _retry_after_s(reply: Reply) -> float | None:
    """Return the seconds that are asked for; proxies may name a date instead (RFC 9110, 10.2.3)."""
    asked = reply.headers.get("Retry-After", "")
    try:
        told_s = float(asked)
    except ValueError:
        try:
            told_s = parsedate_to_datetime(asked).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, told_s) if math.isfinite(told_s) else None
