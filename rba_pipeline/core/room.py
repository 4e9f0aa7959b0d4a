"""How large a request to one address may be, by what was refused there as too large.

Something in between, a proxy for instance, has a limit that nobody names, for ever or for a moment.
So what was refused is halved, and now and then one request of up to twice as much is tried.
"""

import math
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Bound:
    """How much of something a request may have.

    Attributes:
        most: What requests have, but for one that is tried.
        proven: The most that was answered, as long as that is not doubted.
        pause: Answers to requests near ``most`` until more is tried: twice as many with each time
            that it is, until one is answered.
        answers: Those that have come.
    """

    most: float = math.inf
    proven: int = 0
    pause: int = 1
    answers: int = 0

    @property
    def limit(self) -> float:
        """Return how much the next request may have."""
        return 2 * self.most if self.answers >= self.pause else self.most

    def sent(self, size: int) -> "Bound":
        """Return the state after a request was sent: no other is tried beside one that is."""
        if size <= self.most:
            return self
        return replace(self, pause=2 * self.pause, answers=0)

    def answered(self, size: int) -> "Bound":
        """Return the state after an answer."""
        proven = max(self.proven, size)
        if size > self.most:
            return Bound(size, proven, answers=1)
        # Who sends less than half of it is not held up.
        is_near = 2 * size > self.most
        return replace(self, proven=proven, answers=self.answers + is_near)

    def refused(self, size: int) -> "Bound":
        """Return the state after so much was refused."""
        if size <= self.proven:
            # As much was answered before: it is for one of the texts, unless it happens again.
            return replace(self, proven=size - 1)
        return replace(self, most=size // 2, answers=0)


@dataclass(frozen=True, slots=True)
class Room:
    """How large requests of several texts may be.

    In characters, for many short texts are no large request; in texts, where it is not for those.
    """

    characters: Bound = field(default_factory=Bound)
    texts: Bound = field(default_factory=Bound)

    def allows(self, characters: int, texts: int) -> bool:
        """Return whether the next request may be so large."""
        return characters <= self.characters.limit and texts <= self.texts.limit

    def sent(self, characters: int, texts: int) -> "Room":
        """Return the state after a request was sent; a single text says nothing."""
        if texts == 1:
            return self
        return Room(self.characters.sent(characters), self.texts.sent(texts))

    def answered(self, characters: int, texts: int) -> "Room":
        """Return the state after an answer."""
        return Room(self.characters.answered(characters), self.texts.answered(texts))

    def refused(self, characters: int, texts: int) -> "Room":
        """Return the state after several texts were refused: they are sent in halves."""
        if characters > self.characters.most or texts > self.texts.most:
            # It was tried, or sent before the limit was known.
            return self
        if characters <= self.characters.proven and texts > self.texts.proven:
            return replace(self, texts=self.texts.refused(texts))
        return replace(self, characters=self.characters.refused(characters))
