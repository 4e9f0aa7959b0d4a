"""One pass of the model: watched, measured, and its result checked."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from embedding_service.backend.base import Backend, TokenIds, Vectors
from embedding_service.engine.heap import Heap
from embedding_service.engine.memory import Footprint, MemoryGuard
from embedding_service.engine.watchdog import Watchdog
from embedding_service.errors import MemoryFull, SettingRefused, TooLarge

# A probe must bring the next one this much further; else the memory is spent.
_WORTH_A_PROBE = 1.02


class Passes:
    """Runs the model. Only the owner thread calls ``run``."""

    def __init__(
        self,
        backend: Backend,
        *,
        watchdog: Watchdog,
        memory: MemoryGuard | None,
        heap: Heap,
        retry_after_s: Callable[[], int],
    ) -> None:
        """``memory`` None means that nothing bounds the memory of a pass.

        ``retry_after_s`` says how long the work that waits will take: about when the requests that
        hold memory now are answered.
        """
        self._backend = backend
        self._watchdog = watchdog
        self._memory = memory
        self._heap = heap
        self._retry_after_s = retry_after_s
        self._longest_run = 1

    @property
    def footprint(self) -> Footprint | None:
        """Which passes are known to fit into memory; None where nothing bounds them."""
        return self._memory.footprint if self._memory else None

    @property
    def longest_text(self) -> int:
        """Longest text that is not known to need more memory than there can be."""
        most = self._backend.max_tokens
        if self._memory is None:
            return most
        footprint = self._memory.at_best
        if footprint.fits(np.array([1]), np.array([most]))[0]:
            return most
        reach = footprint.reach(most)
        # While passes can still reach further, nobody knows.
        return most if reach >= self._longest_run * _WORTH_A_PROBE else reach

    def end_warm_up(self) -> None:
        """Raise ``SettingRefused`` if there is no room even for the passes that were made."""
        memory = self._memory
        if memory is None:
            return
        if memory.least_bytes > memory.limit_bytes:
            raise SettingRefused(
                f"EMBEDDING_MAX_MEMORY={memory.limit_bytes}: expected at least "
                f"{memory.least_bytes:.0f}: {self._backend.space.model} takes {memory.idle_bytes} "
                f"bytes idle, requests {memory.reserved_bytes} (EMBEDDING_MAX_REQUEST_MEMORY, and "
                "what it takes to tokenise), and a small batch the rest; where it is not set, it "
                "is most of what the system allows this process"
            )
        memory.end_warm_up()

    def probe(self, texts: Sequence[TokenIds]) -> bool:
        """Come one pass nearer to knowing whether ``texts`` fit; False if there is none to make.

        The pass is over the longest piece of a single text that is known to fit.
        """
        reach = self._reach(texts)
        if reach >= len(texts[0]) or reach < self._longest_run * _WORTH_A_PROBE:
            return False
        self.try_out([texts[0][:reach]])
        return True

    def run(self, texts: Sequence[TokenIds]) -> Vectors:
        """Return float32 of shape ``(n, dimensions)``, in the order of ``texts``.

        Whatever ``probe`` has left to find out is found out first.

        Raises:
            TooLarge: A single text does not fit into memory.
            MemoryFull: It does not now, beside what requests hold.
            Exception: Whatever the model raises, or ``ValueError`` for vectors that are none.
        """
        while self.probe(texts):
            pass
        reach = self._reach(texts)
        if reach < len(texts[0]):
            raise self._refusal(len(texts[0]))
        return self.try_out(texts)

    def begin(self, texts: Sequence[TokenIds]) -> Callable[[], Vectors]:
        """Begin what ``run`` does where passes overlap; the function returned ends it.

        Either of the two raises what ``run`` does.
        """
        if not self._backend.overlaps:
            return partial(self.run, texts)
        with self._watchdog.watching():
            ended = self._backend.begin(texts)

        def vectors() -> Vectors:
            with self._watchdog.watching():
                found = self._tidied(ended)
            return self._checked(found, len(texts))

        return vectors

    def _refusal(self, length: int) -> TooLarge | MemoryFull:
        what = f"a text of {length} tokens"
        if length > self.longest_text:
            return too_large(what, self.longest_text)
        message = f"{what} needs the memory that other requests hold now"
        return MemoryFull(message, self._retry_after_s())

    def _reach(self, texts: Sequence[TokenIds]) -> int:
        """Return how much of the first text is known to fit; of several texts all is."""
        length = len(texts[0])
        if self._memory is None or len(texts) > 1:
            return length
        return self._memory.footprint.reach(length)

    def try_out(self, texts: Sequence[TokenIds]) -> Vectors:
        """Run ``texts`` without asking whether they fit: how anything becomes known."""
        lengths = [len(text) for text in texts]
        longest = max(lengths)
        with self._watchdog.watching():
            encode = partial(self._backend.encode, texts)
            if self._memory is None:
                vectors = self._tidied(encode)
            else:
                with self._memory.measured(len(texts), longest, tokens=sum(lengths)):
                    vectors = self._tidied(encode)
        self._longest_run = max(self._longest_run, longest)
        return self._checked(vectors, len(texts))

    def _tidied(self, computed: Callable[[], Vectors]) -> Vectors:
        vectors = computed()
        # Before memory is looked at: what a pass left and gave back is not taken off the callers'.
        self._heap.tidy()
        return vectors

    def _checked(self, vectors: Vectors, n_texts: int) -> Vectors:
        expected = (n_texts, self._backend.space.dimensions)
        if vectors.shape != expected or vectors.dtype != np.float32:
            raise ValueError(
                f"expected float32 of shape {expected} from the model, "
                f"got {vectors.dtype} of shape {vectors.shape}"
            )
        if not np.isfinite(vectors).all():
            raise ValueError(f"a batch of {n_texts} texts gave a vector that is not finite")
        return vectors


def too_large(what: str, longest_text: int) -> TooLarge:
    """Return the refusal of a text for which there is not enough memory."""
    return TooLarge(
        f"{what} needs more memory than the service may use; at most {longest_text} tokens fit"
    )
