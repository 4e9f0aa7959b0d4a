"""One owner thread, and everyone who waits for it."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from embedding_service.backend.base import TokenIds, Vectors, Work
from embedding_service.backend.fake import FakeBackend
from embedding_service.engine.engine import Engine
from embedding_service.engine.memory import MemoryGuard
from embedding_service.engine.policy import BatchLimits
from embedding_service.engine.stats import BatchFigures, Stats
from embedding_service.engine.tickets import Lane, PendingRequest
from embedding_service.errors import (
    BackendFailed,
    DeadlinePassed,
    Draining,
    EngineError,
    MemoryFull,
    NotReady,
    QueueFull,
    SettingRefused,
    TooLarge,
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

    def __init__(
        self,
        *,
        memory: MemoryGuard | None = None,
        watchdog_s: float = 300,
        overlaps: bool = False,
    ) -> None:
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self.deaths: list[BaseException] = []
        self.died = threading.Event()
        self.on_batch: Callable[[Sequence[TokenIds]], None] = lambda batch: None
        self.on_begin: Callable[[Sequence[TokenIds]], None] = lambda batch: None
        self.backend = Spoilable(
            before_encode=self._before,
            before_begin=lambda batch: self.on_begin(batch),
            overlaps=overlaps,
        )
        self.stats = Stats()
        self.engine = Engine(
            self.backend,
            limits=BatchLimits(max_texts=4, max_padded_tokens=48),
            max_queue_tokens=60,
            stats=self.stats,
            memory=memory,
            watchdog_s=watchdog_s,
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

    def submit(
        self, *texts: str, lane: Lane = "document", deadline: float | None = None
    ) -> "Waiter":
        return Waiter(self.engine, [self.ids(text) for text in texts], lane, deadline)

    def fail_on(self, word: str, error: BaseException) -> None:
        token = int(self.ids(word)[1])

        def check(batch: Sequence[TokenIds]) -> None:
            if any(token in ids for ids in batch):
                raise error

        self.on_batch = check


class Waiter:
    """A caller that waits with a deadline."""

    def __init__(
        self, engine: Engine, texts: list[TokenIds], lane: Lane, deadline: float | None
    ) -> None:
        self._settled = threading.Event()
        self.request: PendingRequest = engine.submit(
            texts, lane=lane, deadline=deadline, on_settled=self._settled.set
        )

    def result(self) -> Vectors:
        assert self._settled.wait(WAIT_S), "nobody answered"
        return self.request.result()


def started(*, overlaps: bool) -> Iterator[Harness]:
    harness = Harness(overlaps=overlaps)
    harness.start()
    yield harness
    harness.gate.set()
    harness.engine.stop(WAIT_S)


@pytest.fixture(params=[pytest.param(False, id="one-by-one"), pytest.param(True, id="overlapping")])
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    yield from started(overlaps=request.param)


@pytest.fixture
def overlapping() -> Iterator[Harness]:
    yield from started(overlaps=True)


def test_vectors_come_in_the_order_of_the_texts(harness: Harness) -> None:
    texts = [" ".join(["word"] * n) + f" {n}" for n in (9, 1, 5, 2, 7, 3)]

    vectors = harness.submit(*texts).result()

    expected = np.stack([harness.backend.vector(harness.ids(text)) for text in texts])
    assert np.array_equal(vectors, expected)


@pytest.mark.case("S1")
def test_whoever_submits_the_model_is_run_by_one_thread(harness: Harness) -> None:
    runners = set[int]()
    harness.on_batch = lambda batch: runners.add(threading.get_ident())

    with ThreadPoolExecutor(8) as callers:
        found = list(callers.map(lambda n: harness.submit(f"text {n}").result(), range(400)))

    expected = [harness.backend.vector(harness.ids(f"text {n}")) for n in range(400)]
    assert np.array_equal(np.concatenate(found), np.stack(expected))
    assert len(runners) == 1


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


def test_where_passes_overlap_the_next_one_begins_before_the_last_one_ends(
    overlapping: Harness,
) -> None:
    texts = [f"text {number}" for number in range(8)]
    overlapping.gate.clear()
    waiter = overlapping.submit(*texts)
    assert overlapping.entered.acquire(timeout=WAIT_S)

    assert overlapping.backend.begun == [[4] * 4] * 2
    assert overlapping.backend.batches == []

    overlapping.gate.set()
    expected = [overlapping.backend.vector(overlapping.ids(text)) for text in texts]
    assert np.array_equal(waiter.result(), expected)


def test_of_two_passes_under_way_each_is_answered_for_itself(overlapping: Harness) -> None:
    overlapping.fail_on(POISON, ValueError("bad numbers"))
    overlapping.gate.clear()
    first = overlapping.submit(*[POISON] * 4)
    second = overlapping.submit(*["long text"] * 4)
    overlapping.gate.set()

    with pytest.raises(BackendFailed):
        first.result()
    assert second.result().shape == (4, 8)


@pytest.mark.parametrize(
    "error", [ValueError("bad numbers"), MemoryError("cuda: out of memory")], ids=["fails", "full"]
)
def test_a_pass_that_cannot_be_begun_leaves_the_one_under_way_alone(
    overlapping: Harness, error: Exception
) -> None:
    def second(batch: Sequence[TokenIds]) -> None:
        if len(overlapping.backend.begun) == 1:
            overlapping.on_begin = lambda batch: None
            raise error

    overlapping.on_begin = second
    overlapping.gate.clear()
    first, other = overlapping.submit(*["x"] * 4), overlapping.submit(*["long text"] * 4)
    assert overlapping.entered.acquire(timeout=WAIT_S)
    overlapping.gate.set()

    assert first.result().shape == (4, 8)
    if isinstance(error, MemoryError):
        # It was put back, and computed in smaller parts.
        assert other.result().shape == (4, 8)
    else:
        with pytest.raises(BackendFailed):
            other.result()
    figures = overlapping.stats.snapshot(0)
    assert figures["failed_batches"] == 1
    assert figures["busy_s"] <= figures["uptime_s"]


def test_stopping_does_not_wait_for_two_passes_that_hang(overlapping: Harness) -> None:
    overlapping.gate.clear()
    waiters = [overlapping.submit(*["x"] * 4), overlapping.submit(*["long text"] * 4)]
    assert overlapping.entered.acquire(timeout=WAIT_S)

    assert not overlapping.engine.stop(timeout_s=0)

    for waiter in waiters:
        with pytest.raises(Draining):
            waiter.result()


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


def test_a_pass_that_does_not_fit_into_memory_is_made_in_halves(harness: Harness) -> None:
    def fit(batch: Sequence[TokenIds]) -> None:
        if len(batch) > 2:
            raise MemoryError("cuda: out of memory")

    harness.on_batch = fit
    texts = ["a", "b", "c", "d"]

    vectors = harness.submit(*texts).result()

    assert np.array_equal(vectors, [harness.backend.vector(harness.ids(text)) for text in texts])
    assert harness.backend.batches == [[3, 3], [3, 3]]
    assert harness.engine.limits.max_padded_tokens == 6
    assert harness.stats.snapshot(0)["failed_batches"] == 1


def test_a_text_that_does_not_fit_into_memory_alone_fails(harness: Harness) -> None:
    harness.fail_on(POISON, MemoryError("cuda: out of memory"))

    with pytest.raises(BackendFailed):
        harness.submit(POISON).result()

    assert harness.submit("healthy").result().shape == (1, 8)


def test_a_model_that_fails_at_everything_ends_the_service(harness: Harness) -> None:
    lost = RuntimeError("the device is lost")

    def fail(batch: Sequence[TokenIds]) -> None:
        raise lost

    harness.on_batch = fail
    for _ in range(5):
        with pytest.raises(BackendFailed):
            harness.submit("healthy").result()

    assert harness.died.wait(WAIT_S)
    assert harness.deaths == [lost]
    assert not harness.engine.alive


def test_any_number_of_poisoned_batches_leaves_a_healthy_model_in_service(
    harness: Harness,
) -> None:
    harness.fail_on(POISON, ValueError("bad numbers"))

    for _ in range(12):
        with pytest.raises(BackendFailed):
            harness.submit(POISON).result()

    assert harness.submit("healthy").result().shape == (1, 8)
    assert harness.engine.alive


def test_the_rest_of_a_failed_request_is_not_computed(harness: Harness) -> None:
    harness.fail_on(POISON, ValueError("bad"))
    harness.hold()
    failing = harness.submit(POISON, *["x"] * 11)

    harness.gate.set()
    with pytest.raises(BackendFailed):
        failing.result()
    harness.submit("after").result()

    begun = [[3] * 4] if harness.backend.overlaps else []
    assert harness.backend.batches == [[3], *begun, [3]]
    assert harness.stats.snapshot(0)["dropped_texts"] == 8 - 4 * len(begun)


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


def test_the_speed_of_the_warm_up_counts_until_there_is_a_batch() -> None:
    stats = Stats()
    stats.guess(10, 10)
    assert stats.tokens_per_second() == 1

    work = Work(1000, 0)
    stats.batch_done(BatchFigures(1, work, work, seconds=2))

    assert stats.tokens_per_second() == 500


def test_counters_tell_what_the_model_did(harness: Harness) -> None:
    harness.submit("a", "b c").result()

    taken = harness.stats.snapshot(queue_tokens=5)

    assert (taken["texts"], taken["tokens"], taken["padded_tokens"]) == (2, 7, 8)
    assert (taken["batches"], taken["queue_tokens"]) == (1, 5)
    assert taken["busy_s"] >= taken["longest_batch_s"] > 0
    assert harness.stats.tokens_per_second() > 0


def test_a_query_overtakes_the_documents_that_wait(harness: Harness) -> None:
    held = harness.hold()
    documents = [harness.submit(*["one two three"] * 4) for _ in range(3)]
    query = harness.submit("x", lane="query")

    harness.gate.set()
    for waiter in (held, query, *documents):
        waiter.result()

    assert harness.backend.batches == [[3], [3], *[[5] * 4] * 3]


def test_a_line_full_of_documents_lets_a_query_in(harness: Harness) -> None:
    harness.hold()
    harness.submit(*["x"] * 20)

    with pytest.raises(QueueFull, match="document"):
        harness.engine.refuse_if_full()
    harness.engine.refuse_if_full("query")
    query = harness.submit("x", lane="query")

    assert harness.engine.lane_tokens == {"query": 3, "document": 60}
    assert harness.engine.queue_tokens == 63
    harness.gate.set()
    assert query.result().shape == (1, 8)


def test_a_model_that_hangs_is_given_up_and_everyone_is_answered() -> None:
    harness = Harness(watchdog_s=0.05)
    harness.start()
    waiters = [harness.hold(), harness.submit("behind it")]

    assert harness.died.wait(WAIT_S)

    for waiter in waiters:
        with pytest.raises(BackendFailed) as failure:
            waiter.result()
        assert isinstance(failure.value.__cause__, TimeoutError)
    assert not harness.engine.alive
    with pytest.raises(NotReady):
        harness.submit("new")
    assert not harness.engine.stop(0)
    harness.gate.set()
    assert harness.engine.stop(WAIT_S)
    assert len(harness.deaths) == 1


def test_two_passes_that_hang_are_given_up_and_everyone_is_answered() -> None:
    harness = Harness(watchdog_s=0.05, overlaps=True)
    harness.start()
    harness.gate.clear()
    waiters = [harness.submit(*["x"] * 4), harness.submit(*["long text"] * 4)]

    assert harness.died.wait(WAIT_S)

    for waiter in waiters:
        with pytest.raises(BackendFailed):
            waiter.result()
    assert len(harness.deaths) == 1
    harness.gate.set()
    assert harness.engine.stop(WAIT_S)


def test_a_model_that_hangs_in_its_self_test_is_never_ready() -> None:
    harness = Harness(watchdog_s=0.05)
    harness.gate.clear()
    harness.engine.start()

    with pytest.raises(NotReady) as refusal:
        harness.engine.wait_until_tested()

    assert isinstance(refusal.value.__cause__, TimeoutError)
    harness.gate.set()
    harness.engine.stop(WAIT_S)


class Growing:
    """A process of 100 MiB whose passes take a MiB per token, and which gives nothing back."""

    def __init__(self) -> None:
        self.peak = 100 * 2**20
        self.others = 0
        """What requests hold beside the passes."""
        self.on_batch: Callable[[], None] = lambda: None

    def compute(self, batch: Sequence[TokenIds]) -> None:
        self.on_batch()
        needed = len(batch) * max(map(len, batch)) * 2**20
        self.peak = max(self.peak, 100 * 2**20 + needed)

    def measure(self) -> tuple[int, int]:
        return self.peak + self.others, self.peak + self.others


def growing_engine(limit_mib: int) -> tuple[Engine, FakeBackend, Growing]:
    process = Growing()
    backend = FakeBackend(max_tokens=2000, before_encode=process.compute)
    memory = MemoryGuard(limit_mib * 2**20, process.measure)
    limits = BatchLimits(max_texts=4, max_padded_tokens=2000)
    engine = Engine(backend, limits=limits, max_queue_tokens=9000, stats=Stats(), memory=memory)
    engine.start()
    return engine, backend, process


def test_a_text_without_the_memory_for_it_is_refused_and_the_next_one_runs() -> None:
    engine, backend, process = growing_engine(limit_mib=700)
    engine.wait_until_tested()
    (long,) = backend.tokenise(["w " * 1500], "raw")

    with pytest.raises(TooLarge, match=r"at most \d{3} tokens fit"):
        Waiter(engine, [long], "document", None).result()

    assert 500 < engine.longest_text <= 600
    assert Waiter(engine, [long[: engine.longest_text]], "document", None).result().shape == (1, 8)
    assert process.peak <= 700 * 2**20
    assert engine.stats.snapshot(0)["failed_batches"] == 0
    engine.stop(WAIT_S)


def test_a_text_for_which_others_leave_no_memory_now_is_asked_to_come_again() -> None:
    engine, backend, process = growing_engine(limit_mib=1000)
    engine.wait_until_tested()
    (text,) = backend.tokenise(["w " * 600], "raw")
    expected = Waiter(engine, [text], "document", None).result()

    process.others = 500 * 2**20
    # 20 tokens per second, and two more texts of 602 in the line.
    slow = Work(1_000_000, 0)
    engine.stats.batch_done(BatchFigures(1, slow, slow, seconds=50_000))
    with pytest.raises(MemoryFull, match="needs the memory that other requests hold") as refusal:
        Waiter(engine, [text] * 3, "document", None).result()
    process.others = 0

    assert refusal.value.retry_after_s == pytest.approx(60, abs=2)
    assert engine.longest_text >= len(text)
    assert (Waiter(engine, [text], "document", None).result() == expected).all()
    engine.stop(WAIT_S)


def test_a_query_is_served_between_the_passes_that_a_first_long_text_needs() -> None:
    engine, backend, process = growing_engine(limit_mib=10_000)
    engine.wait_until_tested()
    backend.batches.clear()
    (long,) = backend.tokenise(["w " * 1900], "raw")
    (query,) = backend.tokenise(["x"], "raw")
    asked: list[Waiter] = []

    def ask_once() -> None:
        if not asked:
            asked.append(Waiter(engine, [query], "query", None))

    process.on_batch = ask_once
    answered = Waiter(engine, [long], "document", None)
    answered.result()

    assert backend.batches == [[768], [3], [1902]]
    # The first of them was no batch of texts, and counts all the same.
    figures = engine.stats.snapshot(0)
    assert figures["batches"] == 2
    assert figures["busy_s"] >= answered.request.compute_s - 1e-6
    engine.stop(WAIT_S)


def test_batches_are_kept_to_the_memory_there_is() -> None:
    engine, backend, process = growing_engine(limit_mib=700)
    engine.wait_until_tested()
    texts = backend.tokenise(["w " * 300] * 8, "raw")

    assert Waiter(engine, texts, "document", None).result().shape == (8, 8)

    assert process.peak <= 700 * 2**20
    engine.stop(WAIT_S)


def test_a_batch_is_kept_to_the_memory_there_is_after_an_idle_while() -> None:
    engine, backend, process = growing_engine(limit_mib=1000)
    engine.wait_until_tested()
    texts = backend.tokenise(["w " * 150] * 4, "raw")
    Waiter(engine, texts, "document", None).result()
    backend.batches.clear()
    # Long enough to be back in the line, where it waits for work.
    time.sleep(0.05)

    process.others = 300 * 2**20
    Waiter(engine, texts, "document", None).result()

    assert backend.batches == [[152] * 2] * 2
    engine.stop(WAIT_S)


def test_a_limit_below_the_idle_model_is_refused_at_the_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine, _, _ = growing_engine(limit_mib=100)

    with pytest.raises(SettingRefused, match="EMBEDDING_MAX_MEMORY=104857600: expected at least"):
        engine.wait_until_tested()
    assert not [record for record in caplog.records if record.exc_info]
