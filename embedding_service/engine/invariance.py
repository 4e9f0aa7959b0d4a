"""The contract as a long test: the vector of a text does not depend on anything but the text."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from embedding_service.backend.base import Backend, TokenIds, Vectors
from embedding_service.engine.deviation import Deviation, bound, deviation
from embedding_service.engine.engine import Engine
from embedding_service.engine.memory import MemoryGuard
from embedding_service.engine.policy import BatchLimits
from embedding_service.engine.stats import Stats
from embedding_service.errors import TooLarge

_WORDS = (
    "the of in and to rate bank growth inflation Members household 4.35 per cent, quarter; "
    "employment (graph) exchange-rate policy's Ölpreis — housing 2026 forecast . wages"
)
_POOL = 32
_LONGEST_POOLED = 512
_MOST_TEXTS = 8
_LONG_SHARE = 20
_QUEUE_TOKENS = 2**24
_PATIENCE_S = 600


@dataclass(frozen=True, slots=True)
class Report:
    """What was compared, and the worst that was found."""

    compositions: int
    """Batches that the model was given while several threads asked at once."""
    texts: int
    long_texts: int
    """Of them beyond ``native_tokens``."""
    left_out: int
    """Texts, each time that one was not compared because there was not enough memory."""
    worst_delta: float
    worst_cosine: float
    bound: str
    seconds: float
    passed: bool


def check_contract(
    backend: Backend,
    limits: BatchLimits,
    *,
    batches: int,
    threads: int = 8,
    seed: int = 0,
    memory: MemoryGuard | None = None,
    watchdog_s: float = 300,
    on_progress: Callable[[int], None] = lambda batches: None,
) -> Report:
    """Compare vectors from random batches with those of the same texts alone.

    An engine of its own is started and stopped. Each of ``threads`` callers asks again and again
    for a few texts from one pool, in random order; batches form of whatever waits, filled with
    texts of any length, unlike those of the service. Where the model takes texts beyond
    ``native_tokens``, such are asked for once in twenty batches, two at a time, so that one is
    padded to the other. In the end all texts are asked for alone once more. Texts that are refused
    for want of memory are left out.

    Args:
        backend: Nobody else may use it meanwhile.
        limits: As served.
        batches: At least so many, n ≥ 1.
        threads: At least 1.
        seed: Decides the texts and what each caller asks for; not the batches, which time decides.
        memory: As served; None bounds nothing.
        watchdog_s: As served: the longest that a pass may take.
        on_progress: Given the number of batches so far, in any thread.

    Raises:
        NotReady: The self-test failed.
        EngineError: The model failed.
        TimeoutError: An answer took over ten minutes.
    """
    began = time.monotonic()
    stats = Stats()
    mixing = _mixing(limits, backend)
    engine = Engine(
        backend,
        limits=mixing,
        max_queue_tokens=_QUEUE_TOKENS,
        stats=stats,
        memory=memory,
        watchdog_s=watchdog_s,
    )
    engine.start()
    try:
        engine.wait_until_tested()
        callers = _Callers(engine, _pool(backend, seed), batches, on_progress)
        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(callers.ask_on, range(seed, seed + threads)))
        composed = stats.snapshot(0)["batches"] - callers.alone
        found.append(callers.afterwards())
    finally:
        # A model that hangs has been given up by the watchdog; nothing is left to wait for.
        engine.stop(_PATIENCE_S if engine.alive else 1)
    worst = Deviation()
    for one in found:
        worst = worst.worst(one)
    return Report(
        compositions=composed,
        texts=stats.snapshot(0)["texts"],
        long_texts=callers.long_texts,
        left_out=callers.left_out,
        worst_delta=worst.delta,
        worst_cosine=worst.cosine,
        bound=bound(backend.precision),
        seconds=time.monotonic() - began,
        passed=worst.allowed(backend.precision),
    )


def _mixing(limits: BatchLimits, backend: Backend) -> BatchLimits:
    """Return limits under which unlike texts meet: padding costs nothing, two long ones fit."""
    mixing = replace(limits, native_tokens=backend.native_tokens, pass_tokens=2**40)
    if backend.max_tokens <= backend.native_tokens:
        return mixing
    padded = max(limits.max_padded_tokens, 2 * _second_long(backend))
    return replace(
        mixing,
        max_padded_tokens=padded,
        max_attention=max(limits.max_attention, padded * _second_long(backend)),
    )


def _second_long(backend: Backend) -> int:
    """Return the length of the second shortest of the long texts."""
    return min(backend.native_tokens * 5 // 4, backend.max_tokens)


@dataclass(frozen=True, slots=True)
class _Pool:
    ordinary: list[TokenIds]
    long: list[TokenIds]


def _pool(backend: Backend, seed: int) -> _Pool:
    """Return texts from one word up, a few of them long: many short ones and few long ones."""
    plan = random.Random(seed)
    most = min(backend.native_tokens, _LONGEST_POOLED)
    lengths = [round(most ** (i / (_POOL - 1))) for i in range(_POOL)]
    native = backend.native_tokens
    beyond = sorted({native + 1, _second_long(backend), backend.max_tokens})
    return _Pool(
        [_text(backend, plan, length) for length in lengths],
        [_text(backend, plan, n) for n in beyond if native < n <= backend.max_tokens],
    )


def _text(backend: Backend, plan: random.Random, tokens: int) -> TokenIds:
    """Return a text of about ``tokens`` tokens, exactly so many if it is long."""
    (ids,) = backend.tokenise([" ".join(plan.choices(_WORDS.split(), k=tokens))], "document")
    return ids[:tokens] if tokens > len(backend.tokenise(["a"], "document")[0]) else ids


class _Callers:
    """Threads that ask for texts whose vectors they know."""

    def __init__(
        self, engine: Engine, pool: _Pool, batches: int, on_progress: Callable[[int], None]
    ) -> None:
        self._engine = engine
        self._on_progress = on_progress
        self._native_tokens = engine.backend.native_tokens
        self._lock = threading.Lock()
        self.long_texts = 0
        """How many long texts were computed, alone before and after or among others."""
        everything = pool.ordinary + pool.long
        found = [(text, self._ask([text])) for text in everything]
        known = [(text, vectors) for text, vectors in found if vectors is not None]
        self._texts = [text for text, _ in known]
        self._n_ordinary = sum(len(text) <= self._native_tokens for text in self._texts)
        self._expected = np.concatenate([vectors for _, vectors in known])
        self.alone = len(known)
        """Batches that were made to learn what is expected."""
        self.left_out = len(everything) - len(known)
        """Texts, each time that one was not compared."""
        self._wanted = batches
        self._long_times = 0

    def ask_on(self, seed: int) -> Deviation:
        """Ask until enough batches were made; return the worst of the answers."""
        plan = random.Random(seed)
        worst = Deviation()
        while (done := self._engine.stats.snapshot(0)["batches"] - self.alone) < self._wanted:
            self._on_progress(done)
            chosen = plan.choices(range(self._n_ordinary), k=plan.randint(1, _MOST_TEXTS))
            chosen += self._long(done)
            worst = worst.worst(self._compared(chosen))
        return worst

    def _long(self, done: int) -> list[int]:
        """Return the places of two long texts if it is time for them: the shortest, and another."""
        long = range(self._n_ordinary, len(self._texts))
        with self._lock:
            if not long or self._long_times * _LONG_SHARE > done:
                return []
            self._long_times += 1
            return [long[self._long_times % len(long)], long[0]]

    def afterwards(self) -> Deviation:
        """Ask for every text alone once more."""
        worst = Deviation()
        for place in range(len(self._texts)):
            worst = worst.worst(self._compared([place]))
        return worst

    def _compared(self, chosen: Sequence[int]) -> Deviation:
        """Return no deviation, and count them, if this time one of them did not fit into memory."""
        found = self._ask([self._texts[i] for i in chosen])
        if found is not None:
            return deviation(found, self._expected[chosen])
        with self._lock:
            self.left_out += len(chosen)
        return Deviation()

    def _ask(self, texts: Sequence[TokenIds]) -> Vectors | None:
        """Return None if one of the texts needs more memory than there is."""
        settled = threading.Event()
        request = self._engine.submit(texts, on_settled=settled.set)
        if not settled.wait(_PATIENCE_S):
            raise TimeoutError(f"no answer within {_PATIENCE_S} s")
        try:
            vectors = request.result()
        except TooLarge:
            return None
        with self._lock:
            self.long_texts += sum(len(text) > self._native_tokens for text in texts)
        return vectors
