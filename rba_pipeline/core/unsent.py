"""What a run has still to send: fresh texts, and batches that are to be sent again."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

from rba_pipeline.core.embeddings import Text
from rba_pipeline.core.recovery import Batch, halves


@dataclass(slots=True)
class Unsent:
    """The texts of one run that are not in flight.

    Attributes:
        texts: Fresh ones, read as needed.
        total: How many texts the run began with.
        taken: How many of them have left ``texts``.
        again: Batches that failed, in the order in which they are tried again.
    """

    texts: Iterator[Text]
    total: int
    taken: int = 0
    again: list[Batch] = field(default_factory=list)
    _ahead: deque[Text] = field(default_factory=deque)

    def __bool__(self) -> bool:
        """Return whether anything is left."""
        return bool(self.again or self._peek())

    @property
    def fresh(self) -> int:
        """Return how many texts were never sent."""
        return self.total - self.taken

    def add(self, batches: Iterable[Batch]) -> None:
        """Have these sent again."""
        self.again += batches

    def due(self, now_s: float, answers: int) -> list[int]:
        """Return the places in ``again`` of those that may be sent now."""
        return [
            place
            for place, batch in enumerate(self.again)
            if batch.not_before_s <= now_s and batch.proof <= answers
        ]

    def waits_for_proof(self, answers: int) -> bool:
        """Return whether none of ``again`` may be sent before there was another answer."""
        return all(batch.proof > answers for batch in self.again)

    def take(self, size: int, most_tokens: int, most_characters: float = math.inf) -> Batch | None:
        """Return a batch of at most ``size`` fresh texts and, but for a single one, ``most_tokens``
        tokens and ``most_characters``; ``None``: there are none left.
        """
        texts = tuple(self._next(size, most_tokens, most_characters))
        self.taken += len(texts)
        return Batch(texts) if texts else None

    def take_again(self, place: int, fits: Callable[[Batch], bool]) -> Batch:
        """Return the batch at ``place`` in ``again``, or as much of it as ``fits``: the rest comes
        next.
        """
        batch = self.again.pop(place)
        while len(batch.texts) > 1 and not fits(batch):
            batch, *rest = _smaller(batch)
            self.again[:0] = rest
        return batch

    def put_back(self, batch: Batch, *, is_fresh: bool) -> None:
        """Take ``batch`` not to have been taken."""
        if is_fresh:
            self._ahead.extendleft(reversed(batch.texts))
            self.taken -= len(batch.texts)
        else:
            self.again.insert(0, batch)

    def _next(self, size: int, most_tokens: int, most_characters: float) -> Iterator[Text]:
        tokens = characters = 0
        for place in range(size):
            if (text := self._peek()) is None:
                return
            tokens, characters = tokens + text.tokens, characters + len(text.text)
            if place and (tokens > most_tokens or characters > most_characters):
                return
            yield self._ahead.popleft()

    def _peek(self) -> Text | None:
        if not self._ahead:
            self._ahead.extend(islice(self.texts, 1))
        return self._ahead[0] if self._ahead else None


def _smaller(batch: Batch) -> tuple[Batch, ...]:
    """Return requests with fewer texts each, which went through the same as ``batch``."""
    if batch.hunt is None:
        return tuple(
            replace(
                half,
                failures=batch.failures,
                failed_at=batch.failed_at,
                refusals=batch.refusals,
            )
            for half in halves(batch)
        )
    # The group that holds the text at fault stays as it is: less of it is tried first.
    middle = (len(batch.texts) + 1) // 2
    hunt = replace(batch.hunt, sibling=batch.texts[middle:] + batch.hunt.sibling)
    return (replace(batch, texts=batch.texts[:middle], hunt=hunt),)
