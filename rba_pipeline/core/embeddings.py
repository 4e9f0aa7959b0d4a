"""Texts on their way to vectors: batches, the wire format, and what an answer has to promise."""

import base64
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rba_pipeline.core.errors import ContractBroken, RecordMissing, VectorsDrifted

Item = TypeVar("Item")

# Unit length as the service promises it, with room for float32 and half-precision rounding.
NORM_TOLERANCE = 1e-3
# Reasons that may pass, and after how many runs in vain a text is not sent again by itself.
PASSING_REASONS = frozenset({"model_failed", "timed_out", "connection_lost"})
RUNS_TO_HOLD = 3
# Embedded to see whether a service is well, and whether it is still the same.
CANARY = "A canary in a mine sings one song; when it sings another, or none, the miners leave."
# Of it, in any tokenizer that makes a token of a word at least.
_CANARY_TOKENS = 17
# Another precision of the same weights may share a space from this cosine on, by the service's own
# measure (``LIKE_FP32`` there): replicas, or a service before and after, may differ by as much.
CANARY_COSINE = 0.9995


@dataclass(frozen=True, slots=True)
class Space:
    """What a vector has to share with another to be comparable, as the service describes it.

    Attributes:
        id: 32 hex over all of ``details``.
        details: Every ingredient: weights, tokenizer, prompts, pooling, precision, and so on.
    """

    id: str
    model: str
    dimensions: int
    details: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Text:
    """One distinct text to embed: SHA-256 of its UTF-8 bytes in hex, and its length in tokens."""

    text_hash: str
    text: str
    tokens: int


def as_long_as(text: Text) -> str:
    """Return a harmless text of at least as many characters, and about as many tokens."""
    times = max(len(text.text) / len(CANARY), text.tokens / _CANARY_TOKENS)
    return " ".join([CANARY] * max(2, math.ceil(times)))


@dataclass(frozen=True, slots=True)
class Rejection:
    """A text that the service can never embed, and its reason code.

    Attributes:
        attempts: Failed requests of this run that held it; 0: they are not held against it.
    """

    text_hash: str
    reason: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one distinct text.

    Attributes:
        outcome: ``embedded`` now, ``reused`` from an earlier run, ``truncated`` (its vector is of
            its beginning, made now or earlier), or ``quarantined``.
        reason: A code, only for a quarantined text.
        attempts: How many runs sent a quarantined text in vain; 0 if it is to be tried again.
        is_forgotten: A quarantined text that nobody wants to hear of again.
        charged_by: The run that raised ``attempts`` last, lest it does so again.
    """

    text_hash: str
    outcome: str
    reason: str | None
    attempts: int
    tokens: int
    is_forgotten: bool = False
    charged_by: str | None = None

    def is_held(self, *, truncate: bool) -> bool:
        """Return whether to send the text again is known to be in vain.

        Args:
            truncate: Whether a text that is too long may be cut now.
        """
        if self.outcome != "quarantined" or not self.attempts:
            return False
        if self.is_forgotten:
            return True
        if self.reason == "text_too_long" and truncate:
            return False
        # What the service says of a text stays true; what it failed at may have been its own fault.
        return self.reason not in PASSING_REASONS or self.attempts >= RUNS_TO_HOLD


@dataclass(frozen=True, slots=True)
class Part:
    """Vectors kept together in one file: ``n`` hashes and float32 ``(n, dimensions)``.

    Attributes:
        truncated: The hashes of texts whose end the model did not see.
    """

    text_hashes: tuple[str, ...]
    vectors: NDArray[np.float32]
    truncated: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if len(self.text_hashes) != len(self.vectors):
            raise ValueError(f"{len(self.text_hashes)} hashes for {len(self.vectors)} vectors")


def outcome_of(
    text_hash: str,
    tokens: int,
    state: str | None,
    *,
    rejection: Rejection | None,
    before: Outcome | None,
    run_id: str,
) -> Outcome:
    """Return what became of one text. A run charges it once, however often that is asked.

    Args:
        state: ``embedded``, ``truncated`` or ``reused``; anything else: it has no vector.
        rejection: Why it was not embedded, if it was sent in vain.
        before: Its outcome, if the run before quarantined it in the same space. It keeps it if it
            is not sent now.

    Raises:
        RecordMissing: It was in quarantine when the run began, and is not any more.
        RuntimeError: It has no vector, and was neither rejected now nor quarantined before.
    """
    if state in ("embedded", "truncated", "reused"):
        return Outcome(text_hash, state, None, 0, tokens)
    if rejection is not None:
        before = before or Outcome(text_hash, "quarantined", None, 0, tokens)
        now = replace(before, reason=rejection.reason)
        if rejection.attempts and before.charged_by != run_id:
            now = replace(now, attempts=before.attempts + 1, charged_by=run_id)
        return now
    if before is None and state == "held":
        raise RecordMissing(
            f"text {text_hash} was in quarantine when this run began, and another run has changed "
            "that meanwhile. Materialise 'embeddings' again"
        )
    if before is None:
        raise RuntimeError(f"text {text_hash} has no outcome: this is a bug in Dispatch")
    return before


def check_canary(
    vector: NDArray[np.float32], expected: NDArray[np.float32] | None, address: str, space: Space
) -> None:
    """Refuse a service whose canary sings another song.

    Args:
        vector: The canary's, of unit length, float32 ``(dimensions,)``.
        expected: What it was when this space was first used; ``None``: this is the first time.

    Raises:
        VectorsDrifted: Their cosine is below ``CANARY_COSINE``.
    """
    if expected is None:
        return
    cosine = float(vector.astype(np.float64) @ expected.astype(np.float64))
    if not cosine >= CANARY_COSINE:
        raise VectorsDrifted(
            f"{address} names embedding space {space.id} ({space.model}), but gives other vectors "
            f"than before: the same text has a cosine of {cosine:.6f}, at least {CANARY_COSINE} is "
            "needed. Run `python -m embedding_service check` there, and look for a changed "
            "library, device or driver; nothing was stored"
        )


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items in order, ``size`` at a time; the last list may be shorter, none is empty."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def by_similar_length(texts: Iterable[Text], look_ahead: int) -> Iterator[Text]:
    """Yield all texts, the longest first within every ``look_ahead`` of them.

    Texts of similar length meet in one request, so that the service pads little; only
    ``look_ahead`` texts are in memory at once.
    """
    for block in batched(texts, look_ahead):
        yield from sorted(block, key=lambda text: (-text.tokens, text.text_hash))


def decode_vectors(data: Sequence[object], *, count: int, dimensions: int) -> NDArray[np.float32]:
    """Return the vectors of an answer in the order of its request.

    Args:
        data: Each with ``index`` and base64 ``embedding`` (little-endian float32).
        count: How many texts were sent.
        dimensions: The length that each vector has in this embedding space.

    Returns:
        float32, shape ``(count, dimensions)``, every row finite and of unit length.

    Raises:
        ContractBroken: Another number of items, an index missing or twice, a vector that is not
            base64 of ``dimensions`` finite numbers, or not of unit length.
    """
    if len(data) != count:
        raise ContractBroken(f"{count} texts were sent, {len(data)} vectors came back")
    vectors = np.empty((count, dimensions), dtype=np.float32)
    missing = set(range(count))
    for item in data:
        if not isinstance(item, dict):
            raise ContractBroken(f"an item is not an object but {type(item).__name__}")
        index = item.get("index")
        # True is an int to Python, and equal to 1.
        if type(index) is not int or index not in missing:
            raise ContractBroken(f"index {index!r} is out of range 0 to {count - 1} or came twice")
        missing.remove(index)
        vectors[index] = _decoded(item.get("embedding"), index, dimensions)
    _check_rows(vectors)
    return vectors


def _decoded(encoded: object, index: int, dimensions: int) -> NDArray[np.float32]:
    if not isinstance(encoded, str):
        raise ContractBroken(f"vector {index} is not base64 text but {type(encoded).__name__}")
    try:
        raw = base64.b64decode(encoded, validate=True)
    except ValueError as error:
        raise ContractBroken(f"vector {index} is not base64: {error}") from error
    if len(raw) != 4 * dimensions:
        raise ContractBroken(f"vector {index}: expected {dimensions} float32, got {len(raw)} bytes")
    return np.frombuffer(raw, dtype="<f4")


def _check_rows(vectors: NDArray[np.float32]) -> None:
    for index in np.flatnonzero(~np.isfinite(vectors).all(axis=1)):
        raise ContractBroken(f"vector {index} holds NaN or infinity")
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    for index in np.flatnonzero(np.abs(norms - 1.0) > NORM_TOLERANCE):
        raise ContractBroken(f"vector {index} has length {norms[index]:.6f}, expected 1")
