"""One owner thread, and everyone who waits for it."""

import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from embedding_service.backend.base import TokenIds, Vectors
from embedding_service.backend.fake import FakeBackend
from embedding_service.engine.engine import Engine
from embedding_service.engine.policy import BatchLimits
from embedding_service.engine.stats import Stats
from embedding_service.engine.tickets import PendingRequest
from embedding_service.errors import (
    BackendFailed,
    DeadlinePassed,
    Draining,
    EngineError,
    NotReady,
    QueueFull,
)

WAIT_S = 10
POISON = "poison"


class Spoilable(FakeBackend):
    """A fake whose answers can be changed on their way out."""

    spoil: Callable[[Vectors], Vectors] = staticmethod(lambda vectors: vectors)

    def encode(self, batch: Sequence[TokenIds]) -> Vectors:
        return self.spoil(super().encode(batch))


class Harness:
    """An engine over a fake model whose batches can be held, spoilt or made deadly."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self.deaths: list[BaseException] = []
        self.died = threading.Event()
        self.on_batch: Callable[[Sequence[TokenIds]], None] = lambda batch: None
        self.backend = Spoilable(before_encode=self._before)
        self.stats = Stats()
        self.engine = Engine(
            self.backend,
            limits=BatchLimits(max_texts=4, max_padded_tokens=48),
            max_queue_tokens=60,
            stats=self.stats,
            on_death=self._died,
        )

    def _before(self, batch: Sequence[TokenIds]) -> None:
        self.entered.release()
        if not self.gate.wait(WAIT_S):
            raise TimeoutError("nobody opened the gate")
        self.on_batch(batch)

    def _died(self, error: BaseException) -> None:
        self.deaths.append(error)
        self.died.set()

    def start(self) -> None:
        self.engine.start()
        self.engine.wait_until_tested()
        self.backend.batches.clear()
        while self.entered.acquire(blocking=False):
            pass

    def hold(self) -> "Waiter":
        """Return when a batch of one text is inside the model, and stays there."""
        self.gate.clear()
        held = self.submit("held")
        assert self.entered.acquire(timeout=WAIT_S)
        return held

    def ids(self, text: str) -> TokenIds:
        return self.backend.tokenise([text], "raw")[0]

    def submit(self, *texts: str, deadline: float | None = None) -> "Waiter":
        return Waiter(self.engine, [self.ids(text) for text in texts], deadline)

    def fail_on(self, word: str, error: BaseException) -> None:
        token = int(self.ids(word)[1])

        def check(batch: Sequence[TokenIds]) -> None:
            if any(token in ids for ids in batch):
                raise error

        self.on_batch = check


class Waiter:
    """A caller that waits with a deadline."""

    def __init__(self, engine: Engine, texts: list[TokenIds], deadline: float | None) -> None:
        self._settled = threading.Event()
        self.request: PendingRequest = engine.submit(
            texts, deadline=deadline, on_settled=self._settled.set
        )

    def result(self) -> Vectors:
        assert self._settled.wait(WAIT_S), "nobody answered"
        return self.request.result()


@pytest.fixture
def harness() -> Iterator[Harness]:
    harness = Harness()
    harness.start()
    yield harness
    harness.gate.set()
    harness.engine.stop(WAIT_S)


def test_vectors_come_in_the_order_of_the_texts(harness: Harness) -> None:
    texts = [" ".join(["word"] * n) + f" {n}" for n in (9, 1, 5, 2, 7, 3)]

    vectors = harness.submit(*texts).result()

    expected = np.stack([harness.backend.vector(harness.ids(text)) for text in texts])
    assert np.array_equal(vectors, expected)


def test_a_full_line_refuses_at_once_and_says_when_to_come_back(harness: Harness) -> None:
    harness.hold()
    harness.submit("one two three four five six seven eight", *["x"] * 16)

    with pytest.raises(QueueFull, match="of at most 60 tokens") as refusal:
        harness.submit("y")

    assert refusal.value.retry_after_s >= 1


def test_what_waits_while_the_model_is_busy_goes_together(harness: Harness) -> None:
    held = harness.hold()
    others = [harness.submit("x"), harness.submit("y"), harness.submit("z")]

    harness.gate.set()
    for waiter in (held, *others):
        waiter.result()

    assert harness.backend.batches == [[3], [3, 3, 3]]


def test_a_failed_batch_fails_its_own_texts_and_the_next_one_runs(harness: Harness) -> None:
    cause = ValueError("bad numbers")
    harness.fail_on(POISON, cause)
    harness.hold()
    poisoned, beside = harness.submit(POISON), harness.submit("beside it")
    later = harness.submit(" ".join(["long"] * 18))

    harness.gate.set()

    for waiter in (poisoned, beside):
        with pytest.raises(BackendFailed) as failure:
            waiter.result()
        assert failure.value.__cause__ is cause
    assert later.result().shape == (1, 8)
    assert harness.stats.snapshot(0)["failed_batches"] == 1


def test_the_rest_of_a_failed_request_is_not_computed(harness: Harness) -> None:
    harness.fail_on(POISON, ValueError("bad"))
    harness.hold()
    failing = harness.submit(POISON, "a", "b", "c", "d", "e")

    harness.gate.set()
    with pytest.raises(BackendFailed):
        failing.result()
    harness.submit("after").result()

    assert harness.backend.batches == [[3], [3]]
    assert harness.stats.snapshot(0)["dropped_texts"] == 2


def test_a_caller_who_left_is_not_computed(harness: Harness) -> None:
    harness.hold()
    gone = harness.submit("gone", "gone too")
    stays = harness.submit("stays")

    harness.engine.leave(gone.request)
    harness.gate.set()
    stays.result()

    assert harness.backend.batches == [[3], [3]]
    assert harness.stats.snapshot(0)["dropped_texts"] == 2
    with pytest.raises(EngineError, match="left"):
        gone.result()


def test_a_text_whose_deadline_passed_is_not_computed(harness: Harness) -> None:
    harness.hold()
    late = harness.submit("late", deadline=0.0)

    harness.gate.set()

    with pytest.raises(DeadlinePassed):
        late.result()
    assert harness.backend.batches in ([], [[3]])


def test_stopping_answers_every_waiting_caller(harness: Harness) -> None:
    held = harness.hold()
    waiting = [harness.submit("x"), harness.submit("y")]
    stopping = threading.Thread(target=harness.engine.stop, args=(WAIT_S,))

    stopping.start()
    for waiter in waiting:
        with pytest.raises(Draining):
            waiter.result()
    harness.gate.set()
    stopping.join(WAIT_S)

    assert held.result().shape == (1, 8)
    with pytest.raises(Draining):
        harness.submit("new")


def test_stopping_does_not_wait_for_a_model_that_hangs(harness: Harness) -> None:
    held = harness.hold()

    ended = harness.engine.stop(timeout_s=0)

    assert not ended
    with pytest.raises(Draining):
        held.result()


def test_a_dead_owner_thread_answers_everyone_and_says_so(harness: Harness) -> None:
    death = KeyboardInterrupt()
    harness.fail_on("deadly", death)
    harness.hold()
    waiters = [harness.submit("deadly"), harness.submit(" ".join(["long"] * 18))]

    harness.gate.set()

    for waiter in waiters:
        with pytest.raises(BackendFailed) as failure:
            waiter.result()
        assert failure.value.__cause__ is death
    assert harness.died.wait(WAIT_S)
    assert harness.deaths == [death]
    assert not harness.engine.alive
    with pytest.raises(NotReady):
        harness.submit("new")


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda good: good[:-1], id="one-vector-too-few"),
        pytest.param(lambda good: good.astype(np.float64), id="another-type"),
        pytest.param(lambda good: good * np.float32("nan"), id="not-finite"),
    ],
)
def test_a_model_that_breaks_its_promise_fails_the_batch(
    harness: Harness, broken: Callable[[Vectors], Vectors]
) -> None:
    harness.backend.spoil = broken

    with pytest.raises(BackendFailed):
        harness.submit("a", "b").result()


def test_counters_tell_what_the_model_did(harness: Harness) -> None:
    harness.submit("a", "b c").result()

    taken = harness.stats.snapshot(queue_tokens=5)

    assert (taken["texts"], taken["tokens"], taken["padded_tokens"]) == (2, 7, 8)
    assert (taken["batches"], taken["queue_tokens"]) == (1, 5)
    assert taken["busy_s"] > 0
    assert harness.stats.tokens_per_second() > 0
