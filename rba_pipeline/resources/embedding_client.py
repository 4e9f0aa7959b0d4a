"""Texts in, float32 matrix out, from one or several addresses of an embedding service."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rba_pipeline.core.embeddings import CANARY, check_canary
from rba_pipeline.core.errors import EmbeddingError, WrongSpace
from rba_pipeline.core.insistence import BRIEF, Insistence
from rba_pipeline.resources.address_round import MAY_PASS, ask_all
from rba_pipeline.resources.deadline_http import Reply
from rba_pipeline.resources.service_answers import (
    ServiceInfo,
    Vectors,
    Work,
    check_space,
    info_of,
    json_of,
    vectors_of,
    within_all,
)
from rba_pipeline.resources.service_requests import ServiceRequests

# Pages need no model: a service that does not answer them stalls. So does one that sings no canary
# for so long after another did.
_PAGE_S = 10.0
# Largest pages, and their time: /tokenizer.json of a large vocabulary is tens of megabytes.
_MOST_PAGE_BYTES, _LARGEST_PAGE_S = 256 << 20, 60.0
# Room in an answer for everything but vectors: names, numbers, an error's message.
_MOST_BYTES_PER_ANSWER, _MOST_BYTES_PER_TEXT = 1 << 16, 512

# A shorter time in the model says little of its speed.
_LONG_ENOUGH_S = 1.0

Answer = TypeVar("Answer")


class EmbeddingClient:
    """One embedding service behind one or several addresses. Safe to use from many threads.

    Every method raises the errors of ``core.errors``; ``embed`` asks once and leaves it to its
    caller to come again, others insist as they are told.

    Attributes:
        unreachable: Addresses that gave no answer when they were asked last who they are, or for
            the canary, while others did.
    """

    def __init__(self, addresses: Sequence[str], *, key: str, timeout_s: float) -> None:
        self.addresses = list(addresses)
        self.timeout_s = timeout_s
        self.unreachable: tuple[str, ...] = ()
        self._requests = ServiceRequests(key=key, timeout_s=timeout_s)

    def close(self) -> None:
        """Cut all connections, and end all waiting: whoever waits for an answer fails at once."""
        self._requests.close()

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond ``close``.

        Raises:
            ServiceUnavailable: The client was closed meanwhile.
        """
        self._requests.pause(seconds)

    def info(self, insistence: Insistence = BRIEF) -> ServiceInfo:
        """Return what the addresses that answer agree on, with the least of their limits.

        Raises:
            ServiceUnavailable: None of them answers.
            WrongSpace: Two addresses serve different models; the message names both.
        """

        def ask() -> ServiceInfo:
            told = ask_all(self.addresses, self._info, lead_s=self._page_s)
            first = told.one_answer()
            self.unreachable = tuple(told.failures)
            _check_agreement(told.answers)
            return within_all(first, told.answers.values())

        return self._insistently(ask, insistence)

    def joined(self, address: str, info: ServiceInfo) -> ServiceInfo:
        """Return ``info`` within the limits of ``address`` as well, asked once.

        Raises:
            WrongSpace: It serves another model than those that answered before the run.
        """
        told = self._info(address)
        check_space(told.space.id, info, address)
        return within_all(info, (info, told))

    def tokenizer(self, insistence: Insistence = BRIEF) -> bytes:
        """Return the bytes of the service's ``tokenizer.json``, from any address."""
        deadline_s = min(self.timeout_s, _LARGEST_PAGE_S)
        return self._somewhere(
            lambda address: self._get(address, "/tokenizer.json", deadline_s).body, insistence
        )

    def busy_s(self) -> float:
        """Return the wall seconds that the engines spent in the model since they started."""
        return sum(work.busy_s for work in self.work().values())

    def tokens_per_second(self) -> float:
        """Return how fast all engines together are while they work; 0 where none has yet."""
        said = self.work().values()
        return sum(work.tokens / work.busy_s for work in said if work.busy_s >= _LONG_ENOUGH_S)

    def work(self) -> dict[str, Work]:
        """Return what each address did for all its callers, of those that answer and say it."""
        found = dict[str, Work]()
        for address, stats in self._stats().items():
            # Advice and pictures would miss it, a run does not need it.
            with contextlib.suppress(KeyError, TypeError, ValueError):
                names = ("busy_s", "tokens", "padded_tokens")
                found[address] = Work(*(float(stats[name]) for name in names))
        return found

    def _stats(self) -> dict[str, Mapping[str, Any]]:
        """Return the figures of every address that answers; none of one that does not say them."""

        def ask(address: str) -> Mapping[str, Any]:
            try:
                stats = json_of(self._get(address, "/health"), address).get("stats")
            except MAY_PASS:
                raise
            except EmbeddingError:
                stats = None
            return stats if isinstance(stats, dict) else {}

        return ask_all(self._well(), ask, lead_s=self._page_s).answers

    def embed_query(self, query: str, *, info: ServiceInfo) -> NDArray[np.float32]:
        """Return the unit vector of a search, float32 ``(dimensions,)``; a long one is cut."""
        answer = self._somewhere(
            lambda address: self.embed(
                address, [query], info=info, input_type="query", truncate=True
            ),
            BRIEF,
        )
        vector: NDArray[np.float32] = answer.vectors[0]
        return vector

    def canary(
        self,
        info: ServiceInfo,
        expected: NDArray[np.float32] | None,
        insistence: Insistence = BRIEF,
    ) -> NDArray[np.float32]:
        """Return the canary's vector, float32 ``(dimensions,)``, of every address that is well.

        One that fails at it while another does not is ``unreachable`` from then on.

        Args:
            expected: The canary's vector in this space, if it is known.

        Raises:
            VectorsDrifted: An address gives another one than expected, or than its neighbours.
            EmbeddingError: No address gives one.
        """
        deadline_s = min(self.timeout_s, insistence.longest_try_s)

        def sing(address: str) -> NDArray[np.float32]:
            return self.check_canary(address, info, expected, deadline_s)

        def ask() -> NDArray[np.float32]:
            sung = ask_all(self._well(), sing, lead_s=self._page_s)
            # Where nobody does, those that were away before are asked as well from now on.
            silent = [each for each in self.addresses if each not in sung.answers]
            self.unreachable = tuple(silent) if sung.answers else ()
            first = sung.one_answer()
            for address, vector in sung.answers.items():
                check_canary(vector, first, address, info.space)
            return first if expected is None else expected

        return self._insistently(ask, insistence)

    def check_canary(
        self,
        address: str,
        info: ServiceInfo,
        expected: NDArray[np.float32] | None,
        deadline_s: float | None = None,
    ) -> NDArray[np.float32]:
        """Ask ``address`` once for the canary, and return its vector.

        Args:
            deadline_s: Else ``timeout_s``.

        Raises:
            VectorsDrifted: It gives another vector than expected.
        """
        answer = self.embed(address, [CANARY], info=info, deadline_s=deadline_s)
        vector: NDArray[np.float32] = answer.vectors[0]
        check_canary(vector, expected, address, info.space)
        return vector

    def embed(
        self,
        address: str,
        texts: Sequence[str],
        *,
        info: ServiceInfo,
        input_type: str = "document",
        truncate: bool = False,
        deadline_s: float | None = None,
    ) -> Vectors:
        """Ask ``address`` once; return one unit vector per text, in the order of ``texts``.

        Args:
            texts: ``n`` non-empty strings, n ≥ 1.
            info: The service as the run began with it.
            input_type: ``document`` or ``query``: which of the model's prompts leads the text.
            truncate: Whether a text that is too long is cut (and reported) or rejected.
            deadline_s: For this request; else ``timeout_s``.

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
        reply = self._requests.vectors(
            address, content, most_bytes=most_bytes, deadline_s=deadline_s
        )
        return vectors_of(reply, address, texts=len(texts), info=info, truncate=truncate)

    @property
    def _page_s(self) -> float:
        return min(self.timeout_s, _PAGE_S)

    def _well(self) -> list[str]:
        """Return the addresses that answered when they were asked last; all, if none did."""
        well = [address for address in self.addresses if address not in self.unreachable]
        return well or self.addresses

    def _info(self, address: str) -> ServiceInfo:
        return info_of(self._get(address, "/info"), address)

    def _get(self, address: str, path: str, deadline_s: float | None = None) -> Reply:
        return self._requests.page(
            address, path, most_bytes=_MOST_PAGE_BYTES, deadline_s=deadline_s or self._page_s
        )

    def _somewhere(self, ask: Callable[[str], Answer], insistence: Insistence) -> Answer:
        """Return the answer of the first address that gives one, trying each of them in turn."""

        def ask_in_turn() -> Answer:
            *others, last = self._well()
            for address in others:
                try:
                    return ask(address)
                except MAY_PASS:
                    continue
            return ask(last)

        return self._insistently(ask_in_turn, insistence)

    def _insistently(self, ask: Callable[[], Answer], insistence: Insistence) -> Answer:
        """Return what ``ask`` returns, asking again for as long as ``insistence`` says."""
        began_s, failed = time.monotonic(), 0
        while True:
            try:
                return ask()
            except MAY_PASS as error:
                if self._requests.is_closed:
                    raise
                failed, waited_s = failed + 1, time.monotonic() - began_s
                pause_s = insistence.pause_s(error, failed, waited_s)
                insistence.on_wait(error, failed, waited_s)
            self.pause(pause_s)


def _check_agreement(told: Mapping[str, ServiceInfo]) -> None:
    """Refuse addresses that serve different spaces."""
    spaces = {info.space.id: address for address, info in told.items()}
    if len(spaces) > 1:
        named = ", ".join(f"{each} serves {told[each].space.model}" for each in spaces.values())
        raise WrongSpace(
            f"the addresses serve different embedding spaces: {named}. Restart them with one "
            "model, or take some out of EMBEDDING_API_URL"
        )
