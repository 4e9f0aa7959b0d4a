"""What the engine needs of a model, and the embedding space that its vectors live in."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

InputType = Literal["document", "query", "raw"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]
TokenIds = NDArray[np.int32]
Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Prompts:
    """What is put before a text; part of the embedding, and of the token count."""

    document: str = ""
    query: str = ""

    def of(self, input_type: InputType) -> str:
        """Return the prefix for ``input_type``; ``raw`` has none."""
        return {"document": self.document, "query": self.query, "raw": ""}[input_type]


@dataclass(frozen=True, slots=True)
class Space:
    """Everything that gives a vector its meaning. Vectors of two spaces may never be compared."""

    model: str
    revision: str
    weights_sha256: str
    configuration_sha256: str
    tokenizer_sha256: str
    document_prompt: str
    query_prompt: str
    pooling: str
    normalised: bool
    dimensions: int
    precision: str
    max_tokens: int
    long_texts: str = ""
    """How texts beyond what the model was trained for are treated; empty where none are taken."""

    @property
    def id(self) -> str:
        """32 hexadecimal digits: the front half of SHA-256 over everything, as canonical JSON."""
        said = dataclasses.asdict(self)
        if not self.long_texts:
            del said["long_texts"]
        text = json.dumps(said, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def cut_to(self, dimensions: int) -> "Space":
        """Return the space of this model's vectors after a Matryoshka cut."""
        return dataclasses.replace(self, dimensions=dimensions)


@dataclass(frozen=True, slots=True)
class Matryoshka:
    """How a model's vectors may be shortened."""

    dimensions: tuple[int, ...]
    layer_norm_first: bool


@dataclass(frozen=True, slots=True)
class Work:
    """What passes of a model compute."""

    tokens: int
    """Each goes through all of the model's matrices."""
    pairs: int
    """Of tokens, in attention."""


class Backend(Protocol):
    """A loaded model. Any thread may call all but ``encode`` and ``begin``, at any time."""

    @property
    def space(self) -> Space: ...

    @property
    def max_tokens(self) -> int:
        """Longest text in tokens, prompt and special tokens included."""

    @property
    def native_tokens(self) -> int:
        """Texts of up to so many tokens take the ordinary path; longer ones a path of their own."""

    @property
    def precision(self) -> Precision:
        """What is computed in; ``space.precision`` is fp32 where the vectors are those of fp32."""

    @property
    def device(self) -> str: ...

    @property
    def runtime(self) -> str: ...

    @property
    def cores(self) -> int: ...

    @property
    def overlaps(self) -> bool:
        """Whether the device computes one pass while this process prepares the next."""

    @property
    def prompts(self) -> Prompts: ...

    @property
    def tokenizer_json(self) -> bytes:
        """The tokenizer without truncation and padding; ``space.tokenizer_sha256`` is its hash."""

    @property
    def matryoshka(self) -> Matryoshka | None:
        """None where a shorter vector of this model means nothing."""

    def tokenise(self, texts: Sequence[str], input_type: InputType) -> list[TokenIds]:
        """Return the ids of prompt, text and special tokens, whole: never truncated, never padded.

        Args:
            texts: Any number of strings that can be encoded as UTF-8.
            input_type: Which prompt goes before each of them.
        """

    def shorten(self, ids: TokenIds) -> TokenIds:
        """Return at most ``max_tokens`` ids, the closing special tokens kept."""

    def work(self, lengths: Sequence[int]) -> Work:
        """Return what a pass over texts of ``lengths`` computes, padding and filling included."""

    def pass_size(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return, for each number of tokens of texts, how many a pass over them computes.

        Args:
            tokens: Of any shape, each ≥ 1.

        Returns:
            Of the same shape; none less than what it is for, and of more tokens never less.
        """

    def encode(self, batch: Sequence[TokenIds]) -> Vectors:
        """Return one unit vector per array of ids, in their order.

        Only the owner thread calls this. The vector of a text does not depend on its neighbours.

        Args:
            batch: ``n`` arrays of 1 to ``max_tokens`` ids, n ≥ 1; all of them longer than
                ``native_tokens``, or none.

        Returns:
            float32, shape ``(n, space.dimensions)``.

        Raises:
            MemoryError: The device has not enough for so much at once.
        """

    def begin(self, batch: Sequence[TokenIds]) -> Callable[[], Vectors]:
        """Begin what ``encode`` does where passes overlap; the function returned waits for its end.

        Either of the two raises what ``encode`` does. At most two passes are under way at once, and
        they are ended in the order in which they were begun. Where passes do not overlap, nothing
        need happen before the end is asked for.
        """
