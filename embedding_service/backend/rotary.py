"""Pure: the frequencies of rotary position embeddings, for ordinary and for long texts."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Rotary:
    """How positions turn queries and keys: one set of frequencies per path, whatever the batch."""

    base: float
    head_dimensions: int
    trained_tokens: int
    longest_tokens: int
    scaling_factor: float

    def frequencies(self, *, long: bool) -> NDArray[np.float32]:
        """Return float32 of shape ``(head_dimensions / 2,)``, radians per position."""
        halves = np.arange(0, self.head_dimensions, 2, dtype=np.float64) / self.head_dimensions
        base = self._long_base() if long else self.base
        return (base**-halves).astype(np.float32)

    def _long_base(self) -> float:
        """Return the base that keeps the lowest frequency inside what the model was trained on.

        "NTK-aware" scaling, as in nomic-embed-text-v1.5's own code, where it follows the length of
        each batch and so changes a text's vector with its neighbours. Here the length is that of
        the longest text the path takes, always.
        """
        stretch = self.scaling_factor * self.longest_tokens / self.trained_tokens
        power = self.head_dimensions / (self.head_dimensions - 2)
        return float(self.base * (stretch - (self.scaling_factor - 1)) ** power)
