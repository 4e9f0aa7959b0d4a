"""Texts in, float32 matrix out, over HTTP; translates every refusal into one of our errors."""

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rba_pipeline.core.embeddings import CANARY, check_canary
from rba_pipeline.core.errors import (
    ContractBroken,
    EmbeddingError,
    ModelFailed,
    RequestTimedOut,
    ServiceOverloaded,
    ServiceUnavailable,
    WrongSpace,
)
from rba_pipeline.resources.deadline_http import (
    ConnectionFailed,
    DeadlinePassed,
    DeadlineSession,
    Reply,
    ReplyRefused,
)
from rba_pipeline.resources.service_answers import (
    ServiceInfo,
    Vectors,
    Work,
    info_of,
    json_of,
    refusal_of,
    vectors_of,
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
                stats = json_of(self._get(address, "/health"), address)["stats"]
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
                found.append(json_of(self._get(address, "/health"), address)["stats"])
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
        return vectors_of(reply, address, texts=len(texts), info=info, truncate=truncate)

    def _info(self, address: str) -> ServiceInfo:
        return info_of(self._patiently(lambda: self._get(address, "/info")), address)

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
            raise refusal_of(reply, address)
        return reply
