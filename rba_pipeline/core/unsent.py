"""What a run has still to send: fresh texts, and batches that are to be sent again."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from rba_pipeline.core.embeddings import Text
from rba_pipeline.core.recovery import Batch


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
    _ahead: Text | None = None

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

    def _next(self, size: int, most_tokens: int, most_characters: float) -> Iterator[Text]:
        tokens = characters = 0
        for place in range(size):
            if (text := self._peek()) is None:
                return
            tokens, characters = tokens + text.tokens, characters + len(text.text)
            if place and (tokens > most_tokens or characters > most_characters):
                return
            self._ahead = None
            yield text

    def _peek(self) -> Text | None:
        if self._ahead is None:
            self._ahead = next(islice(self.texts, 1), None)
        return self._ahead
