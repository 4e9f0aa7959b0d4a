"""Texts of known length: the distribution of lengths, and words that are one token each."""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

# Of BERT's kind of tokenizer: one special token before a text and one after it.
_SPECIAL_TOKENS = 2
_SEED = 20_250_301


@dataclass(frozen=True, slots=True)
class Lengths:
    """A lognormal distribution of lengths in tokens, cut at both ends."""

    median: int
    sigma: float
    shortest: int
    longest: int

    def __post_init__(self) -> None:
        if not _SPECIAL_TOKENS < self.shortest <= self.median <= self.longest or self.sigma < 0:
            raise ValueError(
                f"expected {_SPECIAL_TOKENS} < shortest <= median <= longest, sigma >= 0: {self}"
            )

    def sample(self, n: int, seed: int = _SEED) -> list[int]:
        """Return ``n`` lengths in a random order that ``seed`` fixes.

        They are the distribution's quantiles, so that 32 and 64 of them ask for nearly the same
        work per text; drawn ones would not.
        """
        normal = NormalDist(math.log(self.median), self.sigma)
        quantiles = [round(math.exp(normal.inv_cdf((i + 0.5) / n))) for i in range(n)]
        lengths = [self._cut(length) for length in quantiles]
        random.Random(seed).shuffle(lengths)
        return lengths

    def draw(self, n: int, chance: random.Random) -> list[int]:
        """Return ``n`` lengths by chance, for a load that is to meet all of them in time."""
        return [
            self._cut(round(self.median * chance.lognormvariate(0, self.sigma))) for _ in range(n)
        ]

    def _cut(self, length: int) -> int:
        return min(max(length, self.shortest), self.longest)


# Chunks of publications as the reference is used for, and texts as a short-text model is used for.
# The spread is the one at which the largest of 64 quantiles is the longest chunk by itself.
_LARGEST_OF_64 = NormalDist().inv_cdf(63.5 / 64)
CHUNKS = Lengths(median=545, sigma=math.log(1700 / 545) / _LARGEST_OF_64, shortest=64, longest=1700)
SHORT_TEXTS = Lengths(median=85, sigma=0.3, shortest=16, longest=250)


def make_texts(lengths: Sequence[int], words: Sequence[str], seed: int = _SEED) -> list[str]:
    """Return one text per length, of that many tokens with the special ones counted.

    Args:
        lengths: ``n`` values, each ≥ 3.
        words: Of one token each, as from ``whole_words``.
        seed: The same arguments give the same texts.
    """
    chance = random.Random(seed)
    return [" ".join(chance.choices(words, k=length - _SPECIAL_TOKENS)) for length in lengths]


def whole_words(model: Path) -> list[str]:
    """Return the words that the WordPiece vocabulary in the folder ``model`` holds whole.

    Raises:
        ValueError: Its tokenizer is of another kind, so that tokens could not be counted.
    """
    path = model / "tokenizer.json"
    found = json.loads(path.read_text(encoding="utf-8"))["model"]
    if found.get("type", "WordPiece") != "WordPiece" or not isinstance(found["vocab"], dict):
        raise ValueError(f"{path}: expected a WordPiece vocabulary, got {found.get('type')}")
    words = [word for word in found["vocab"] if word.isascii() and word.isalpha()]
    return [word for word in words if word.islower() and len(word) >= 3]
