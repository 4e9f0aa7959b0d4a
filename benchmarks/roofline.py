"""Pure: how many operations a model's passes take, and in which batches a bare loop runs them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reports import Spread

# Of layers, hidden and inner width: as transformers has them, as nomic's authors published theirs,
# and DistilBERT's.
_NAMES = (
    ("num_hidden_layers", "n_layer", "n_layers"),
    ("hidden_size", "n_embd", "dim"),
    ("intermediate_size", "n_inner", "hidden_dim"),
)


@dataclass(frozen=True, slots=True)
class Shape:
    """The matrices of a transformer's layers."""

    layers: int
    hidden: int
    inner: int
    gated: bool
    """Whether two matrices lead to the inner width, of which one opens and shuts the other."""

    @classmethod
    def read(cls, model: Path) -> "Shape":
        """Return the shape that ``config.json`` in the folder ``model`` describes."""
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        layers, hidden, inner = (
            next(config[name] for name in names if name in config) for names in _NAMES
        )
        return cls(layers, hidden, inner, gated=config["model_type"] == "nomic_bert")

    @property
    def inner_matrices(self) -> int:
        """Matrices of a layer between hidden and inner width, in either direction."""
        return 3 if self.gated else 2

    def matrix_flops(self, tokens: int) -> int:
        """Return the operations of ``tokens`` tokens with all weights: two per weight and token."""
        weights = self.hidden * (4 * self.hidden + self.inner_matrices * self.inner)
        return 2 * tokens * self.layers * weights

    def attention_flops(self, lengths: Sequence[int]) -> int:
        """Return the operations of attention's two products: each text with itself only."""
        return self.flops(0, sum(length**2 for length in lengths))

    def flops(self, tokens: int, pairs: int) -> int:
        """Return the operations of ``tokens`` with all weights and of ``pairs`` in attention."""
        return self.matrix_flops(tokens) + 4 * self.layers * self.hidden * pairs


@dataclass(frozen=True, slots=True)
class Peak:
    """Operations per second of one library's bare multiplications by a model's own matrices."""

    library: str
    tokens: int
    square: float
    """Hidden by hidden."""
    inner: float
    """Hidden by inner, and back."""


def best_peak(peaks: Sequence[Peak], shape: Shape) -> float:
    """Return the operations per second of a layer of ``shape``, one matrix after the other.

    Each matrix by whichever library, at whichever number of tokens, is fastest at it; n ≥ 1 peaks.
    """
    square = 4 * shape.hidden
    inner = shape.inner_matrices * shape.inner
    seconds = square / max(p.square for p in peaks) + inner / max(p.inner for p in peaks)
    return (square + inner) / seconds


@dataclass(frozen=True, slots=True)
class Round:
    """What was measured side by side in one round, for one precision."""

    peak: float
    """Operations per second of the fastest library for each matrix; see ``best_peak``."""
    loop_s: float
    http_s: float
    padding_share: float
    """Of the operations of the HTTP load, those that no text needed."""
    busy_share: float
    """Of the HTTP load's seconds, those that the server's model was computing."""
    idle_cores: float
    """Cores that whoever's turn it was not was using all the same."""


@dataclass(frozen=True, slots=True)
class Roofline:
    """All rounds of one precision, on the same texts."""

    precision: str
    shape: Shape
    lengths: Sequence[int]
    rounds: Sequence[Round]
    device: str = "cpu"

    def http_share(self) -> Spread:
        """Return the HTTP service's speed as a share of the bare loop's."""
        return Spread.of_ratios([r.loop_s for r in self.rounds], [r.http_s for r in self.rounds])

    def peak_share(self, *, attention: bool) -> Spread:
        """Return the bare loop's operations per second as a share of the peak."""
        flops = self.shape.matrix_flops(sum(self.lengths))
        flops += self.shape.attention_flops(self.lengths) if attention else 0
        return Spread.of([flops / r.loop_s / r.peak for r in self.rounds])

    def peak(self) -> Spread:
        return Spread.of([r.peak for r in self.rounds])

    def tokens_per_s(self, seconds: Sequence[float]) -> Spread:
        return Spread.of([sum(self.lengths) / s for s in seconds])


def sorted_batches(
    lengths: Sequence[int], *, max_texts: int, max_padded_tokens: int
) -> list[list[int]]:
    """Return the positions of all texts in batches of neighbours by length, shortest first.

    A text longer than ``max_padded_tokens`` is a batch of its own.
    """
    batches: list[list[int]] = []
    for at in sorted(range(len(lengths)), key=lengths.__getitem__):
        size = len(batches[-1]) + 1 if batches else 0
        if 0 < size <= max_texts and size * lengths[at] <= max_padded_tokens:
            batches[-1].append(at)
        else:
            batches.append([at])
    return batches
