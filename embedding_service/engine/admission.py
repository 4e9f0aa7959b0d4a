"""From the texts of a request to ids that the model takes, or a refusal that names the text."""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from embedding_service.backend.base import Backend, InputType, TokenIds
from embedding_service.engine.passes import too_large
from embedding_service.errors import TextEmpty, TextInvalid, TextTooLong, TooLarge

# Real text has four or five characters per token. Far above that, tokenising is only a way to
# spend the server's memory: a text beyond this is too long, or cut, without being counted.
_CHARS_PER_TOKEN = 32
# The tokenizer's own record of a token takes up to five hundred bytes where an id takes four, and
# a token may be a single character.
_BYTES_PER_CHAR = 512
# A thread tokenises at most so many characters at a time, but a text always in one piece. Of texts
# that are longer there is one at a time: one of 8,192 tokens may have 262,144 characters, and all
# threads together could be made to take a gigabyte for texts that are too long. It has a thread of
# its own: an allocator keeps for each thread what was given back in small pieces.
_SLICE_CHARS = 32_768
_LONG_TEXTS = ThreadPoolExecutor(1, "long-texts")


def tokenising_bytes(threads: int, max_tokens: int) -> int:
    """Return the most that ``threads`` take to tokenise at once, beside texts and ids."""
    return _BYTES_PER_CHAR * (_CHARS_PER_TOKEN * max_tokens + threads * _SLICE_CHARS)


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
    refuse_if_in_vain: Callable[[int], None] = lambda tokens: None,
) -> Admitted:
    """Tokenise ``texts`` once and for all, and hold them against the limits.

    ``refuse_if_in_vain`` is told after each text how many tokens there are so far. What it raises
    ends the work: all beyond would be tokenised for nothing.

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
        refuse_if_in_vain(tokens)
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
    longest = max_chars(backend)
    if len(text) <= longest:
        return text, False
    # White space around a text may not push the text itself out of what is looked at.
    text = text.strip()
    if len(text) > longest and not truncate:
        raise _too_long(index, f"{len(text)} characters, more than {longest}", backend)
    return text[:longest], len(text) > longest


def max_chars(backend: Backend) -> int:
    """Return how many characters of a text, white space around it aside, are tokenised at most."""
    return backend.max_tokens * _CHARS_PER_TOKEN


def _tokenised(
    texts: Sequence[str], input_type: InputType, backend: Backend
) -> Iterator[tuple[int, TokenIds]]:
    first = chars = 0
    for index, text in enumerate(texts):
        if index > first and chars + len(text) > _SLICE_CHARS:
            yield from enumerate(_slice(texts[first:index], input_type, backend), start=first)
            first, chars = index, 0
        chars += len(text)
    if texts:
        yield from enumerate(_slice(texts[first:], input_type, backend), start=first)


def _slice(texts: Sequence[str], input_type: InputType, backend: Backend) -> list[TokenIds]:
    if len(texts[0]) > _SLICE_CHARS:
        return _LONG_TEXTS.submit(backend.tokenise, texts, input_type).result()
    return backend.tokenise(texts, input_type)


def _too_long(index: int, size: str, backend: Backend) -> TextTooLong:
    return TextTooLong(
        f"text {index} has {size}; the model takes {backend.max_tokens} tokens, "
        "prompt and special tokens included",
        index,
    )
