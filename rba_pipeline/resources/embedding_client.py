"""Texts in, float32 matrix out, over HTTP; translates every refusal into one of our errors."""

import itertools
import math
import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import requests
from numpy.typing import NDArray
from requests.adapters import HTTPAdapter

from rba_pipeline.core.embeddings import Space, decode_vectors
from rba_pipeline.core.errors import (
    ContractBroken,
    EmbeddingError,
    NotAllowed,
    RequestRejected,
    ServiceOverloaded,
    ServiceUnavailable,
    TextRejected,
    WrongSpace,
)

# About half a minute of waiting in all: a service that was restarted is back by then.
ATTEMPTS = 8
LONGEST_WAIT_S = 10.0
CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """What the service says of itself before work begins (``GET /info``)."""

    space: Space
    device: str
    cores: int
    max_tokens: int
    max_texts: int
    max_queue_tokens: int
    document_prompt: str
    tokenizer_sha256: str


@dataclass(frozen=True, slots=True)
class Vectors:
    """One answer: float32 ``(n, dimensions)`` and tokens per text, in the order of the request.

    ``attempts`` counts the HTTP requests that it took, ``refusals`` those that met a full service.
    """

    vectors: NDArray[np.float32]
    tokens: tuple[int, ...]
    truncated: tuple[bool, ...]
    attempts: int = 1
    refusals: int = 0


class EmbeddingClient:
    """One embedding service behind one or several addresses. Safe to use from many threads.

    Every method raises the errors of ``core.errors``:
        ServiceOverloaded: Full, starting or draining, and still so after all attempts.
        ServiceUnavailable: No usable answer after all attempts.
        NotAllowed, RequestRejected, ContractBroken: At once; retrying cannot help.
    """

    def __init__(self, addresses: Sequence[str], *, key: str, timeout_s: float) -> None:
        self.addresses = [address.rstrip("/") for address in addresses]
        self.timeout_s = timeout_s
        self._session = requests.Session()
        self._session.trust_env = False
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=64, pool_connections=8))
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._turn = itertools.count()
        self._closed = threading.Event()

    def close(self) -> None:
        """End all waiting between attempts, and the connections."""
        self._closed.set()
        self._session.close()

    def info(self) -> ServiceInfo:
        """Return what every address agrees on.

        Raises:
            WrongSpace: Two addresses serve different models; the message names both.
        """
        found = {address: self._info(address) for address in self.addresses}
        spaces = {info.space.id: address for address, info in found.items()}
        if len(spaces) > 1:
            told = ", ".join(
                f"{address} serves {found[address].space.model}" for address in spaces.values()
            )
            raise WrongSpace(f"the addresses serve different embedding spaces: {told}")
        return next(iter(found.values()))

    def tokenizer(self) -> bytes:
        """Return the bytes of the service's ``tokenizer.json``."""
        return self._get(self.addresses[0], "/tokenizer.json").content

    def busy_s(self) -> float:
        """Return the wall seconds that the engines spent in the model since they started."""
        health = [_json(self._get(address, "/health"), address) for address in self.addresses]
        return sum(float(body["stats"]["busy_s"]) for body in health)

    def embed(
        self,
        texts: Sequence[str],
        *,
        info: ServiceInfo,
        input_type: str = "document",
        truncate: bool = False,
    ) -> Vectors:
        """Return one unit vector per text, in the order of ``texts``.

        Args:
            texts: ``n`` non-empty strings, n ≥ 1.
            info: The service as the run began with it.
            input_type: ``document`` or ``query``: which of the model's prompts leads the text.
            truncate: Whether a text that is too long is cut (and reported) or rejected.

        Raises:
            TextRejected: One text can never be embedded; its index is in the error.
            WrongSpace: The answer comes from another space than ``info.space``.
        """
        body = {
            "input": list(texts),
            "encoding_format": "base64",
            "input_type": input_type,
            "truncate": truncate,
        }
        waits = _doubling_waits()
        refusals = 0
        for attempt in itertools.count(1):
            address = self.addresses[next(self._turn) % len(self.addresses)]
            try:
                answer = self._embed_once(address, body, info)
                return replace(answer, attempts=attempt, refusals=refusals)
            except (ServiceOverloaded, ServiceUnavailable) as error:
                refusals += isinstance(error, ServiceOverloaded)
                self._wait(next(waits, None), error)
        raise RuntimeError("attempts ended without an error: this is a bug in EmbeddingClient")

    def _embed_once(self, address: str, body: dict[str, Any], info: ServiceInfo) -> Vectors:
        answer = _json(self._request("POST", address, "/embeddings", json=body), address)
        if answer.get("space") != info.space.id:
            raise WrongSpace(
                f"{address} answers from embedding space {answer.get('space')}, this run began in "
                f"{info.space.id} ({info.space.model}). The service was restarted with another "
                "model: restart "
                "it with the first one, or run the partition again to embed it in the new space"
            )
        data = answer.get("data")
        if not isinstance(data, list):
            raise ContractBroken(f"{address}: the answer has no list 'data'")
        count = len(body["input"])
        vectors = decode_vectors(data, count=count, dimensions=info.space.dimensions)
        data = sorted(data, key=lambda item: int(item["index"]))
        truncated = tuple(bool(item.get("truncated")) for item in data)
        if any(truncated) and not body["truncate"]:
            raise ContractBroken(f"{address}: text {truncated.index(True)} was cut without leave")
        return Vectors(vectors, _token_counts(data, address), truncated)

    def _info(self, address: str) -> ServiceInfo:
        body = _json(self._get(address, "/info"), address)
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

    def _get(self, address: str, path: str) -> requests.Response:
        # Three attempts, two seconds: a service that is down should be reported soon.
        waits = iter([0.5, 1.5])
        while True:
            try:
                return self._request("GET", address, path)
            except (ServiceOverloaded, ServiceUnavailable) as error:
                self._wait(next(waits, None), error)

    def _request(
        self, method: str, address: str, path: str, json: dict[str, Any] | None = None
    ) -> requests.Response:
        headers = {**self._headers, "X-Request-Timeout-Ms": str(int(self.timeout_s * 1000))}
        try:
            response = self._session.request(
                method,
                address + path,
                json=json,
                headers=headers,
                timeout=(min(CONNECT_TIMEOUT_S, self.timeout_s), self.timeout_s),
            )
        except requests.Timeout as error:
            raise ServiceUnavailable(
                f"{address} did not answer within {self.timeout_s:g} s (timeout_s). "
                "Lower batch_size, or raise EMBEDDING_API_TIMEOUT"
            ) from error
        except requests.RequestException as error:
            raise ServiceUnavailable(
                f"cannot reach the embedding service at {address} ({type(error).__name__}). "
                "Start it (make up) or correct EMBEDDING_API_URL"
            ) from error
        if response.status_code != 200:
            raise _refusal(response, address)
        return response

    def _wait(self, wait_s: float | None, error: EmbeddingError) -> None:
        """Wait before the next attempt; raise ``error`` when there is none, or at close."""
        if wait_s is None:
            raise error
        told_s = error.retry_after_s if isinstance(error, ServiceOverloaded) else None
        # Jitter keeps the threads of a run, and several runs, from coming back in one wave.
        pause_s = max(told_s or 0.0, wait_s) * random.uniform(1.0, 1.25)
        if self._closed.wait(min(pause_s, 2 * self.timeout_s)):
            raise error


def _doubling_waits() -> Iterator[float]:
    """Yield the seconds to wait after each failed attempt but the last."""
    for exponent in range(ATTEMPTS - 1):
        yield min(LONGEST_WAIT_S, 0.5 * 2**exponent)


def _json(response: requests.Response, address: str) -> dict[str, Any]:
    try:
        body = response.json()
    except requests.JSONDecodeError as error:
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


def _refusal(response: requests.Response, address: str) -> EmbeddingError:
    """Return the error that the status code and the service's error body stand for."""
    code, message, index = _error_body(response)
    told = f"{address} answered {response.status_code} {code}: {message}"
    match response.status_code:
        case 401 | 403:
            return NotAllowed(f"{address} refuses the key: check EMBEDDING_API_KEY")
        case 422 if index is not None:
            return TextRejected(told, index, code)
        case 429 | 503:
            return ServiceOverloaded(told, _retry_after_s(response))
        case status if status == 408 or status >= 500:
            return ServiceUnavailable(told)
        case _:
            return RequestRejected(told)


def _error_body(response: requests.Response) -> tuple[str, str, int | None]:
    try:
        error = response.json()["error"]
        index = error.get("index")
        return str(error["code"]), str(error["message"]), index if isinstance(index, int) else None
    except (requests.JSONDecodeError, KeyError, TypeError, AttributeError):
        return "", "no error body: is this address the embedding_service?", None


def _retry_after_s(response: requests.Response) -> float | None:
    try:
        told_s = float(response.headers.get("Retry-After", ""))
    except ValueError:
        return None
    return max(0.0, told_s) if math.isfinite(told_s) else None
