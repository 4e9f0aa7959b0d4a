"""What is let into the line, and the names of what is not."""

import contextlib
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from embedding_service.api.answers import Limits
from embedding_service.api.jobs import parsed
from embedding_service.backend.base import InputType, Prompts, TokenIds
from embedding_service.backend.fake import FakeBackend
from embedding_service.engine.admission import AdmissionLimits, Admitted, admit, max_chars
from embedding_service.engine.engine import Engine
from embedding_service.engine.policy import BatchLimits
from embedding_service.engine.stats import Stats
from embedding_service.errors import (
    DeadlinePassed,
    QueueFull,
    TextEmpty,
    TextInvalid,
    TextTooLong,
    TooLarge,
)

BACKEND = FakeBackend(max_tokens=8, prompts=Prompts(document="search document: "))
LIMITS = AdmissionLimits(max_texts=4, max_tokens=20)


def admitted(*texts: str, truncate: bool = False) -> Admitted:
    return admit(texts, "document", truncate=truncate, backend=BACKEND, limits=LIMITS)


def test_prompt_and_special_tokens_count() -> None:
    assert [len(ids) for ids in admitted("a b c d").ids] == [8]

    with pytest.raises(TextTooLong, match="text 1 has 9 tokens; the model takes 8"):
        admitted("a", "a b c d e")


def test_a_long_text_is_cut_on_request_and_keeps_its_last_special_token() -> None:
    found = admitted("a b c d e f", "a", truncate=True)

    assert found.truncated == [True, False]
    assert [len(ids) for ids in found.ids] == [8, 5]
    assert found.ids[0][-1] == found.ids[1][-1]


@pytest.mark.parametrize(
    ("texts", "error", "index"),
    [
        pytest.param(["a", ""], TextEmpty, 1, id="empty"),
        pytest.param([" \n\t"], TextEmpty, 0, id="white-space"),
        pytest.param(["a", "b", "\ud800"], TextInvalid, 2, id="lone-surrogate"),
        pytest.param(["a", "x" * 3000], TextTooLong, 1, id="far-too-long-to-be-counted"),
    ],
)
def test_a_text_that_cannot_be_embedded_is_named(
    texts: list[str], error: type[TextInvalid], index: int
) -> None:
    with pytest.raises(error) as refusal:
        admitted(*texts)

    assert refusal.value.index == index


@pytest.mark.parametrize(
    "texts",
    [pytest.param(["a"] * 5, id="texts"), pytest.param(["a b c d"] * 3, id="tokens")],
)
def test_a_request_that_could_never_fit_is_refused_as_a_whole(texts: list[str]) -> None:
    with pytest.raises(TooLarge):
        admitted(*texts)


def test_a_text_that_is_cut_before_it_is_counted_is_said_to_be_cut() -> None:
    found = admitted("x" * 3000, "a", truncate=True)

    assert found.truncated == [True, False]


def test_a_text_of_few_tokens_is_told_how_many_characters_it_may_have() -> None:
    assert len(admitted("x" * max_chars(BACKEND)).ids[0]) == 5

    with pytest.raises(TextTooLong, match="text 0 has 257 characters, more than 256; the model"):
        admitted("x" * 257)


def test_white_space_before_a_text_does_not_hide_it() -> None:
    found = admitted(" " * 16_384 + "hello", "hello", truncate=True)

    assert found.truncated == [False, False]
    assert np.array_equal(*found.ids)


def test_only_a_text_without_a_token_of_its_own_is_empty() -> None:
    class Joining(FakeBackend):
        """Takes what follows its prompt into the prompt's last token."""

        def tokenise(self, texts: Sequence[str], input_type: InputType) -> list[TokenIds]:
            return super().tokenise([text.strip() or "nothing" for text in texts], "raw")

    joined = admit(["a"], "raw", truncate=False, backend=Joining(), limits=LIMITS)

    assert len(joined.ids[0]) == 3


def test_texts_are_tokenised_a_slice_at_a_time_and_keep_their_order() -> None:
    slices: list[int] = []

    class Counting(FakeBackend):
        def tokenise(self, texts: Sequence[str], input_type: InputType) -> list[TokenIds]:
            slices.append(sum(map(len, texts)))
            return super().tokenise(texts, input_type)

    backend = Counting(max_tokens=4096)
    texts = ["x" * 15_000, "y " * 7_500 + "y", "z " * 35_000, "a"]
    limits = AdmissionLimits(max_texts=4, max_tokens=10**6)

    found = admit(texts, "raw", truncate=True, backend=backend, limits=limits)

    assert slices == [0, 30_001, 70_000, 1]
    assert [len(ids) for ids in found.ids] == [3, 4096, 4096, 3]


def test_of_the_longest_texts_one_is_tokenised_at_a_time() -> None:
    """The others of the request, and other requests, need not wait for it."""

    class Meeting(FakeBackend):
        """Its callers wait for each other a moment, if their texts are of the kind that meets."""

        def __init__(self, n_chars: int, wait_s: float) -> None:
            super().__init__(max_tokens=4096)
            self.n_chars = n_chars
            self.both = threading.Barrier(2, timeout=wait_s)
            self.met: list[bool] = []

        def tokenise(self, texts: Sequence[str], input_type: InputType) -> list[TokenIds]:
            if len(texts[0]) == self.n_chars:
                with contextlib.suppress(threading.BrokenBarrierError):
                    self.both.wait()
                self.met.append(not self.both.broken)
            return super().tokenise(texts, input_type)

    def met(n_chars: int, wait_s: float) -> list[bool]:
        backend = Meeting(n_chars, wait_s)
        with ThreadPoolExecutor(2) as threads:
            for _ in range(2):
                threads.submit(
                    admit, ["x" * n_chars], "raw", truncate=True, backend=backend, limits=LIMITS
                )
        return backend.met

    assert met(32_768, wait_s=10) == [True, True]
    assert met(32_769, wait_s=0.2) == [False, False]


class Counting(FakeBackend):
    """Counts the texts of each call."""

    def __init__(self) -> None:
        super().__init__(max_tokens=512)
        self.n_texts: list[int] = []

    def tokenise(self, texts: Sequence[str], input_type: InputType) -> list[TokenIds]:
        self.n_texts.append(len(texts))
        return super().tokenise(texts, input_type)


def with_room(backend: FakeBackend, tokens: int) -> Engine:
    """Return an engine that is not started: what is put in its line waits."""
    limits = BatchLimits(max_texts=4, max_padded_tokens=48)
    return Engine(backend, limits=limits, max_queue_tokens=tokens, stats=Stats())


def ask(engine: Engine, texts: list[str], given_up: Callable[[], bool]) -> None:
    limits = Limits(
        max_texts=100,
        max_tokens_per_text=64,
        max_chars_per_text=20_000,
        max_batch_tokens=48,
        server_batch_size=4,
        max_queue_tokens=engine.room["document"],
        max_query_queue_tokens=64,
        max_body_bytes=2**20,
    )
    body = json.dumps({"input": texts, "input_type": "raw"}).encode()
    parsed(body, engine, limits, given_up)


# Three of them are a slice.
LONG_TEXTS = ["y " * 5 + "y" * 10_000] * 14


def test_a_request_for_which_there_is_no_room_is_not_tokenised_to_its_end() -> None:
    backend = Counting()
    engine = with_room(backend, 120)
    engine.submit(backend.tokenise(["x " * 48] * 2, "raw"))
    backend.n_texts.clear()

    with pytest.raises(QueueFull, match="100 of at most 120 tokens of document texts wait"):
        ask(engine, LONG_TEXTS, lambda: False)

    # The empty text, and a slice: the third of its texts no longer fits.
    assert backend.n_texts == [1, 3]


def test_a_request_that_nobody_waits_for_is_not_tokenised_to_its_end() -> None:
    backend = Counting()

    with pytest.raises(DeadlinePassed):
        ask(with_room(backend, 10_000), LONG_TEXTS, lambda: len(backend.n_texts) == 3)

    assert backend.n_texts == [1, 3, 3]
