"""From the texts of a request to ids that the model takes, or a refusal that names the text."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from embedding_service.backend.base import Backend, InputType, TokenIds
from embedding_service.engine.passes import too_large
from embedding_service.errors import TextEmpty, TextInvalid, TextTooLong, TooLarge

# Real text has four or five characters per token. Far above that, tokenising is only a way to
# spend the server's memory: a text beyond this is too long, or cut, without being counted.
_CHARS_PER_TOKEN = 32
# Texts are tokenised at most this many characters at a time, or one by one where they are longer:
# the tokenizer's own record of a token takes over four hundred bytes where an id takes four, and
# a token may be a single character.
_SLICE_CHARS = 64_000


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """What one request may hold."""

    max_texts: int
    max_tokens: int
    longest_text: int = sys.maxsize
    """In tokens: a longer one would need more memory than there is."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """The texts of a request as ids, in order, and which of them were cut to fit."""

    ids: list[TokenIds]
    truncated: list[bool]


def admit(
    texts: Sequence[str],
    input_type: InputType,
    *,
    truncate: bool,
    backend: Backend,
    limits: AdmissionLimits,
    refuse_if_full: Callable[[int], None] = lambda tokens: None,
) -> Admitted:
    """Tokenise ``texts`` once and for all, and hold them against the limits.

    ``refuse_if_full`` is told after each text how many tokens there are so far. What it raises ends
    the work: all beyond would be tokenised for nothing.

    Raises:
        TooLarge: More texts, or more tokens in all, than could ever wait at once; or a text for
            which there is not enough memory.
        TextInvalid: A text has surrogates that stand alone.
        TextEmpty: A text has nothing but white space and characters without a token.
        TextTooLong: A text has too many tokens, and ``truncate`` is false.
    """
    if len(texts) > limits.max_texts:
        raise TooLarge(f"{len(texts)} texts; at most {limits.max_texts} fit one request")
    _check_encodable(texts)
    (empty,) = backend.tokenise([""], input_type)
    admitted = Admitted([], [])
    tokens = 0
    cut = [_cut(index, text, truncate, backend) for index, text in enumerate(texts)]
    for index, ids in _tokenised([text for text, _ in cut], input_type, backend):
        if not texts[index].strip() or np.array_equal(ids, empty):
            raise TextEmpty(f"text {index} is empty", index)
        kept = backend.shorten(ids)
        if len(kept) < len(ids) and not truncate:
            raise _too_long(index, f"{len(ids)} tokens", backend)
        if len(kept) > limits.longest_text:
            raise too_large(f"text {index}, of {len(kept)} tokens,", limits.longest_text)
        tokens += len(kept)
        if tokens > limits.max_tokens:
            raise TooLarge(f"more than {limits.max_tokens} tokens; split the request")
        refuse_if_full(tokens)
        admitted.ids.append(kept)
        admitted.truncated.append(len(kept) < len(ids) or cut[index][1])
    return admitted


def _check_encodable(texts: Sequence[str]) -> None:
    for index, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise TextInvalid(f"text {index} has a lone surrogate", index) from None


def _cut(index: int, text: str, truncate: bool, backend: Backend) -> tuple[str, bool]:
    """Return what is tokenised of ``text``, and whether that is not all of it."""
    longest = backend.max_tokens * _CHARS_PER_TOKEN
    if len(text) <= longest:
        return text, False
    # White space around a text may not push the text itself out of what is looked at.
    text = text.strip()
    if len(text) > longest and not truncate:
        raise _too_long(index, f"{len(text)} characters", backend)
    return text[:longest], len(text) > longest


def _tokenised(
    texts: Sequence[str], input_type: InputType, backend: Backend
) -> Iterator[tuple[int, TokenIds]]:
    first = chars = 0
    for index, text in enumerate(texts):
        if index > first and chars + len(text) > _SLICE_CHARS:
            yield from enumerate(backend.tokenise(texts[first:index], input_type), start=first)
            first, chars = index, 0
        chars += len(text)
    if texts:
        yield from enumerate(backend.tokenise(texts[first:], input_type), start=first)


def _too_long(index: int, size: str, backend: Backend) -> TextTooLong:
    return TextTooLong(
        f"text {index} has {size}; the model takes {backend.max_tokens} tokens, "
        "prompt and special tokens included",
        index,
    )
