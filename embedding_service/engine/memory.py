"""How much memory a pass of the model takes: learned from the passes that were made.

Under attention, memory grows at most like texts x longest²; everything else grows like texts x
longest. So a pass needs no more than r times what another took that had at least 1/r of its tokens
and 1/r of its pairs of tokens. That is all that is assumed; each pass gives a bound on all others.
Of a pass that was made only its texts' own tokens are counted, of one that is asked about also what
pads them: whichever of its parts is padded, and whichever is not, the bound then holds.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

# No bound reaches further than this from a pass that was made. What an allocator had in store
# when the process began hides the first growth, and so a far too small one must not be scaled up.
_FARTHEST = 16
# No pass is believed to take less: 12 layers of 768 were seen to take some 100 KB per token, and
# growth below the size of an allocator's pool is not seen at all.
_LEAST_BYTES_PER_TOKEN = 65_536
# A pass is filled up to a size above its own, and its table too, in both directions of attention:
# one hardly larger may take so much more. So it is of large passes, with tables at most a sixteenth
# too wide; backend.packing adds more to small ones, which weigh little.
_FILLED_UP = (1 + 1 / 16) ** 2
# A pass is worth remembering if it is larger than the others by so much.
_LARGER = 1.1

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Seen:
    """A pass that was made, and what all passes up to it have added to the process."""

    tokens: int
    pairs: int
    n_bytes: float

    def times(self, tokens: Counts, pairs: Counts) -> NDArray[np.float64]:
        """Return how many times this pass the others are; at least 1."""
        return np.maximum(1, np.maximum(tokens / self.tokens, pairs / self.pairs))

    def covers(self, other: "Seen") -> bool:
        """Return whether ``other`` would teach nothing."""
        larger = min(self.tokens / other.tokens, self.pairs / other.pairs) * _LARGER
        return larger >= 1 and self.n_bytes <= other.n_bytes


@dataclass(frozen=True, slots=True)
class Footprint:
    """What is known at one moment: which passes fit into the memory that is left for them."""

    spare_bytes: float
    seen: tuple[Seen, ...]
    always: tuple[Seen, ...] = ()
    """What is let in whatever is spare: a service that is ready never refuses everything."""

    def fits(self, texts: Counts, longest: Counts) -> NDArray[np.bool_]:
        """Return, for each pass of ``texts`` padded to ``longest``, whether it is known to fit."""
        tokens = texts * longest
        pairs = tokens * longest
        found = np.zeros(np.shape(tokens), dtype=np.bool_)
        for seen in self.seen:
            times = seen.times(tokens, pairs)
            found |= (times <= _FARTHEST) & (seen.n_bytes * times <= self.spare_bytes)
        for seen in self.always:
            found |= seen.times(tokens, pairs) == 1
        return found

    def reach(self, tokens: int) -> int:
        """Return the longest text of at most ``tokens`` that is known to fit alone; 0 for none."""
        lengths = np.arange(1, tokens + 1)
        return int(np.max(lengths * self.fits(np.ones_like(lengths), lengths)))


class MemoryGuard:
    """Keeps the process under ``limit_bytes``. One thread measures, any may ask.

    What the process takes is three things: idle, which is learned once; its passes; and others,
    such as bodies of requests, which come and go. Memory for those is set aside.
    """

    def __init__(
        self, limit_bytes: int, measure: Callable[[], tuple[int, int]], *, reserved_bytes: int = 0
    ) -> None:
        """Nothing is known yet.

        Args:
            limit_bytes: Most that the process may take.
            measure: Returns what is resident now, and the most that ever was; in bytes.
            reserved_bytes: Of the limit, what others may take beside the passes.
        """
        self.limit_bytes = limit_bytes
        self.reserved_bytes = reserved_bytes
        self._measure = measure
        self._idle = self._left = self._least = self._others = 0
        self._passing = False
        self._seen: tuple[Seen, ...] = ()
        self._always: tuple[Seen, ...] = ()
        self._lock = threading.Lock()

    @property
    def idle_bytes(self) -> int:
        """What the process takes beside its passes and others; 0 before the first pass."""
        return self._idle

    @property
    def least_bytes(self) -> float:
        """The smallest limit under which all passes so far fit."""
        needed = max((seen.n_bytes for seen in self._seen), default=0)
        return self._idle + self.reserved_bytes + needed

    @property
    def footprint(self) -> Footprint:
        with self._lock:
            if self._seen and not self._passing:
                self._look_around(self._measure()[0])
            return self._with(max(self.reserved_bytes, self._others))

    @property
    def at_best(self) -> Footprint:
        """As ``footprint``, at a moment when others take no more than is set aside for them."""
        with self._lock:
            return self._with(self.reserved_bytes)

    def _with(self, others: int) -> Footprint:
        return Footprint(self.limit_bytes - self._idle - others, self._seen, self._always)

    def end_warm_up(self) -> None:
        """Let in what was seen so far, and whatever is smaller, from now on and always."""
        with self._lock:
            self._always = self._seen
            self._least = self._measure()[0]

    @contextmanager
    def measured(self, texts: int, longest: int, *, tokens: int) -> Iterator[None]:
        """Learn from the pass that is made inside; not from one that fails.

        ``tokens`` are counted without padding: a pass of as many that is less padded needs less.
        """
        with self._lock:
            before = self._measure()
            self._look_around(before[0])
            self._passing = True
        learned = False
        try:
            yield
            learned = True
        finally:
            with self._lock:
                resident, peak = self._measure()
                # What a pass leaves behind is none of the others', even if it failed.
                self._passing = False
                self._note(resident)
                if learned:
                    self._learn(tokens, texts * longest, texts * longest**2, before, peak)

    def _look_around(self, resident: int) -> None:
        """Growth since the last pass is that of others; it is theirs only until it shrinks.

        What they let go may also be given back to the system during a pass, unseen: but they have
        no more than there is beyond the least that the process ever took.
        """
        grown = resident - self._left
        self._note(resident)
        if self._seen:
            self._others = max(0, min(self._others + grown, resident - self._least))

    def _note(self, resident: int) -> None:
        self._left, self._least = resident, min(self._least, resident)

    def _learn(
        self, tokens: int, padded: int, pairs: int, before: tuple[int, int], peak: int
    ) -> None:
        # The first pass of all also builds what later ones use again.
        if not self._seen:
            self._idle = peak
        rose = peak > before[1]
        taken = peak - self._idle - self._others
        if rose and self._seen:
            taken = max(taken, peak - before[0])
        needed = max(_FILLED_UP * taken, tokens * _LEAST_BYTES_PER_TOKEN)
        new, promised = Seen(tokens, pairs, needed), Seen(padded, pairs, needed)
        # If the peak is that of an earlier moment, this pass took no more than that, and perhaps
        # far less: a bound like any other, but no proof against those there are.
        believed = [_not_below(old, promised) if rose else old for old in self._seen]
        if not any(old.covers(new) for old in believed):
            believed = [old for old in believed if not new.covers(old)] + [new]
        self._seen = tuple(believed)


def _not_below(old: Seen, new: Seen) -> Seen:
    """Return ``old``, raised so far that it no longer promises less than ``new`` took."""
    times = float(old.times(np.array(new.tokens), np.array(new.pairs)))
    return replace(old, n_bytes=max(old.n_bytes, new.n_bytes / times))
