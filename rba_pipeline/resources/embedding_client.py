"""Texts in, float32 matrix out, over HTTP; translates every refusal into one of our errors."""

import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rba_pipeline.core.embeddings import CANARY, Space, check_canary, decode_vectors
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
from rba_pipeline.resources.deadline_http import (
    ConnectionFailed,
    DeadlinePassed,
    DeadlineSession,
    Reply,
    ReplyRefused,
)

# Somebody waits for a search or for the start of a run: what is down should be reported soon.
_WAITS_S = (0.5, 1.5)
# Largest pages: /tokenizer.json of a large vocabulary is tens of megabytes.
_MOST_PAGE_BYTES = 256 << 20
# Room in an answer for everything but vectors: names, numbers, an error's message.
_MOST_BYTES_PER_ANSWER, _MOST_BYTES_PER_TEXT = 1 << 16, 512

# A shorter time in the model says little of its speed.
_LONG_ENOUGH_S = 1.0
_ENDED = "the run has ended: no further request is sent"

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """What the service says of itself before work begins (``GET /info``).

    Attributes:
        unreachable: Addresses that did not answer; the others did, and agree.
    """

    space: Space
    device: str
    cores: int
    max_tokens: int
    max_texts: int
    server_batch_size: int
    max_queue_tokens: int
    document_prompt: str
    tokenizer_sha256: str
    unreachable: tuple[str, ...] = ()


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


class EmbeddingClient:
    """One embedding service behind one or several addresses. Safe to use from many threads.

    Every method raises the errors of ``core.errors``; ``embed`` asks once and leaves it to its
    caller to come again, all others try three times within a few seconds.
    """

    def __init__(self, addresses: Sequence[str], *, key: str, timeout_s: float) -> None:
        self.addresses = list(addresses)
        self.timeout_s = timeout_s
        self._http = DeadlineSession()
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._closed = threading.Event()

    def close(self) -> None:
        """Cut all connections, and end all waiting: whoever waits for an answer fails at once."""
        self._closed.set()
        self._http.close()

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond ``close``.

        Raises:
            ServiceUnavailable: The client was closed meanwhile.
        """
        if self._closed.wait(max(0.0, seconds)):
            raise ServiceUnavailable(_ENDED)

    def info(self) -> ServiceInfo:
        """Return what the addresses that answer agree on.

        Raises:
            ServiceUnavailable: None of them answers.
            WrongSpace: Two addresses serve different models; the message names both.
        """
        found: dict[str, ServiceInfo] = {}
        failures: dict[str, EmbeddingError] = {}
        for address in self.addresses:
            try:
                found[address] = self._info(address)
            except (ServiceOverloaded, ServiceUnavailable, ModelFailed) as error:
                failures[address] = error
        if not found:
            raise next(iter(failures.values()))
        spaces = {info.space.id: address for address, info in found.items()}
        if len(spaces) > 1:
            told = ", ".join(
                f"{address} serves {found[address].space.model}" for address in spaces.values()
            )
            raise WrongSpace(f"the addresses serve different embedding spaces: {told}")
        return replace(next(iter(found.values())), unreachable=tuple(failures))

    def tokenizer(self) -> bytes:
        """Return the bytes of the service's ``tokenizer.json``, from any address."""
        return self._somewhere(lambda address: self._get(address, "/tokenizer.json").body)

    def busy_s(self) -> float:
        """Return the wall seconds that the engines spent in the model since they started."""
        return sum(float(stats["busy_s"]) for stats in self._stats())

    def tokens_per_second(self) -> float:
        """Return how fast all engines together are while they work; 0 where none has yet."""
        figures = [(float(each["tokens"]), float(each["busy_s"])) for each in self._stats()]
        return sum(tokens / busy_s for tokens, busy_s in figures if busy_s >= _LONG_ENOUGH_S)

    def work(self) -> dict[str, Work]:
        """Return what each address did for all its callers, of those that answer and say it."""
        found = {}
        for address in self.addresses:
            try:
                stats = _json(self._get(address, "/health"), address)["stats"]
                names = ("busy_s", "tokens", "padded_tokens")
                found[address] = Work(*(float(stats[name]) for name in names))
            except (EmbeddingError, KeyError, TypeError, ValueError):
                # Only a picture of the run would miss it.
                continue
        return found

    def _stats(self) -> list[dict[str, Any]]:
        """Return the figures of every address that answers."""
        found = []
        for address in self.addresses:
            try:
                found.append(_json(self._get(address, "/health"), address)["stats"])
            except (ServiceOverloaded, ServiceUnavailable, ModelFailed):
                continue
        return found

    def embed_query(self, query: str, *, info: ServiceInfo) -> NDArray[np.float32]:
        """Return the unit vector of a search, float32 ``(dimensions,)``; a long one is cut."""
        answer = self._somewhere(
            lambda address: self.embed(
                address, [query], info=info, input_type="query", truncate=True
            )
        )
        vector: NDArray[np.float32] = answer.vectors[0]
        return vector

    def canary(
        self, info: ServiceInfo, expected: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Return the canary's vector, float32 ``(dimensions,)``, of every address that is up.

        Args:
            expected: The canary's vector in this space, if it is known.

        Raises:
            VectorsDrifted: An address gives another one than expected, or than its neighbours.
        """
        for address in self.addresses:
            if address not in info.unreachable:
                expected = self._patiently(partial(self.check_canary, address, info, expected))
        if expected is None:
            raise RuntimeError("no address was up: this is a bug in EmbeddingClient")
        return expected

    def check_canary(
        self, address: str, info: ServiceInfo, expected: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Ask ``address`` once for the canary; return ``expected``, or its vector if that is None.

        Raises:
            VectorsDrifted: It gives another vector than expected.
        """
        vector = self.embed(address, [CANARY], info=info).vectors[0]
        check_canary(vector, expected, address, info.space)
        return vector if expected is None else expected

    def embed(
        self,
        address: str,
        texts: Sequence[str],
        *,
        info: ServiceInfo,
        input_type: str = "document",
        truncate: bool = False,
    ) -> Vectors:
        """Ask ``address`` once; return one unit vector per text, in the order of ``texts``.

        Args:
            texts: ``n`` non-empty strings, n ≥ 1.
            info: The service as the run began with it.
            input_type: ``document`` or ``query``: which of the model's prompts leads the text.
            truncate: Whether a text that is too long is cut (and reported) or rejected.

        Raises:
            TextRejected: One text can never be embedded; its index is in the error.
            WrongSpace: The answer comes from another space than ``info.space``.
            EmbeddingError: Every other kind, by what the service answered.
        """
        content = {
            "input": list(texts),
            "encoding_format": "base64",
            "input_type": input_type,
            "truncate": truncate,
        }
        # Four bytes of a float are at most six of base64.
        bytes_per_text = 6 * info.space.dimensions + _MOST_BYTES_PER_TEXT
        most_bytes = _MOST_BYTES_PER_ANSWER + len(texts) * bytes_per_text
        reply = self._request("POST", address, "/embeddings", content, most_bytes)
        began = time.monotonic()
        body = _json(reply, address)
        if body.get("space") != info.space.id:
            raise WrongSpace(
                f"{address} answers from embedding space {body.get('space')}, this run began in "
                f"{info.space.id} ({info.space.model}). The service was restarted with another "
                "model: restart it with the first one, or run the partition again to embed it in "
                "the new space"
            )
        data = body.get("data")
        if not isinstance(data, list):
            raise ContractBroken(f"{address}: the answer has no list 'data'")
        try:
            vectors = decode_vectors(data, count=len(texts), dimensions=info.space.dimensions)
        except ContractBroken as error:
            raise ContractBroken(f"{address}: {error}") from error
        data = sorted(data, key=lambda item: int(item["index"]))
        truncated = tuple(bool(item.get("truncated")) for item in data)
        if any(truncated) and not truncate:
            raise ContractBroken(f"{address}: text {truncated.index(True)} was cut without leave")
        tokens = _token_counts(data, address)
        return Vectors(vectors, tokens, truncated, _took(reply, time.monotonic() - began))

    def _info(self, address: str) -> ServiceInfo:
        body = _json(self._page(address, "/info"), address)
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
        except (KeyError, TypeError, ValueError) as error:
            raise ContractBroken(
                f"{address}/info is not that of an embedding_service ({error!r}): check "
                "EMBEDDING_API_URL"
            ) from error

    def _page(self, address: str, path: str) -> Reply:
        return self._patiently(lambda: self._get(address, path))

    def _get(self, address: str, path: str) -> Reply:
        return self._request("GET", address, path, None, _MOST_PAGE_BYTES)

    def _somewhere(self, ask: Callable[[str], Answer]) -> Answer:
        """Return the answer of the first address that gives one, trying each of them in turn."""
        turns = itertools.cycle(self.addresses)
        return self._patiently(lambda: ask(next(turns)), rounds=len(self.addresses))

    def _patiently(self, ask: Callable[[], Answer], rounds: int = 1) -> Answer:
        """Return what ``ask`` returns, asking ``rounds`` times before each wait."""
        at_once = [0.0] * (rounds - 1)
        for pause_s in [*at_once, _WAITS_S[0], *at_once, _WAITS_S[1], *at_once]:
            try:
                return ask()
            except (ServiceOverloaded, ServiceUnavailable, ModelFailed):
                if self._closed.wait(pause_s):
                    raise
        return ask()

    def _request(
        self, method: str, address: str, path: str, content: object, most_bytes: int
    ) -> Reply:
        if self._closed.is_set():
            raise ServiceUnavailable(_ENDED)
        try:
            reply = self._http.request(
                method,
                address + path,
                content=content,
                headers={**self._headers, "X-Request-Timeout-Ms": str(int(self.timeout_s * 1000))},
                timeout_s=self.timeout_s,
                most_bytes=most_bytes,
            )
        except DeadlinePassed as error:
            raise RequestTimedOut(
                f"{address} did not answer within {self.timeout_s:g} s (timeout_s). "
                "Lower batch_size, or raise EMBEDDING_API_TIMEOUT"
            ) from error
        except ConnectionFailed as error:
            raise ServiceUnavailable(
                f"cannot reach the embedding service at {address} ({error}). "
                "Start it (make up) or correct EMBEDDING_API_URL"
            ) from error
        except ReplyRefused as error:
            raise ContractBroken(f"{address}: {error}") from error
        if reply.status != 200:
            raise _refusal(reply, address)
        return reply


def _json(reply: Reply, address: str) -> dict[str, Any]:
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
        if type(count) is not int or count < 0:
            raise ContractBroken(
                f"{address}: text {index} has tokens={count!r}, not a whole number"
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


def _refusal(reply: Reply, address: str) -> EmbeddingError:
    """Return the error that the status code and the service's error body stand for."""
    code, message, index = _error_body(reply)
    told = f"{address} answered {reply.status} {code}: {message}"
    match reply.status:
        case 401 | 403:
            return NotAllowed(f"{address} refuses the key: check EMBEDDING_API_KEY")
        case 413:
            return RequestTooLarge(told)
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
        return "", "no error body: is this address the embedding_service?", None


def _retry_after_s(reply: Reply) -> float | None:
    try:
        told_s = float(reply.headers.get("Retry-After", ""))
    except ValueError:
        return None
    return max(0.0, told_s) if math.isfinite(told_s) else None
