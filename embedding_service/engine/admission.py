"""From the texts of a request to ids that the model takes, or a refusal that names the text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from embedding_service.backend.base import Backend, InputType, TokenIds
from embedding_service.errors import TextEmpty, TextInvalid, TextTooLong, TooLarge

# Real text has four or five characters per token. Far above that, tokenising is only a way to
# spend the server's memory: a text beyond this is too long without being counted.
_CHARS_PER_TOKEN = 256
# Texts are tokenised this many characters at a time, because the tokenizer's own record of a
# token takes some hundred bytes where an id takes four.
_SLICE_CHARS = 256_000


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """What one request may hold."""

    max_texts: int
    max_tokens: int


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
) -> Admitted:
    """Tokenise ``texts`` once and for all, and hold them against the limits.

    Raises:
        TooLarge: More texts, or more tokens in all, than could ever wait at once.
        TextInvalid: A text has surrogates that stand alone.
        TextEmpty: A text has nothing but white space and characters without a token.
        TextTooLong: A text has too many tokens, and ``truncate`` is false.
    """
    if len(texts) > limits.max_texts:
        raise TooLarge(f"{len(texts)} texts; at most {limits.max_texts} fit one request")
    _check_encodable(texts)
    empty = len(backend.tokenise([""], input_type)[0])
    admitted = Admitted([], [])
    tokens = 0
    for index, ids in _tokenised(texts, input_type, truncate=truncate, backend=backend):
        if len(ids) <= empty:
            raise TextEmpty(f"text {index} is empty", index)
        kept = backend.shorten(ids)
        if len(kept) < len(ids) and not truncate:
            raise _too_long(index, f"{len(ids)} tokens", backend)
        tokens += len(kept)
        if tokens > limits.max_tokens:
            raise TooLarge(f"more than {limits.max_tokens} tokens; split the request")
        admitted.ids.append(kept)
        admitted.truncated.append(len(kept) < len(ids))
    return admitted


def _check_encodable(texts: Sequence[str]) -> None:
    for index, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise TextInvalid(f"text {index} has a lone surrogate", index) from None


def _tokenised(
    texts: Sequence[str], input_type: InputType, *, truncate: bool, backend: Backend
) -> Iterator[tuple[int, TokenIds]]:
    longest = backend.max_tokens * _CHARS_PER_TOKEN
    waiting: list[str] = []
    chars = done = 0
    for index, text in enumerate(texts):
        if len(text) > longest and not truncate:
            raise _too_long(index, f"{len(text)} characters", backend)
        waiting.append(text[:longest])
        chars += len(waiting[-1])
        if chars >= _SLICE_CHARS or index == len(texts) - 1:
            yield from enumerate(backend.tokenise(waiting, input_type), start=done)
            done, waiting, chars = index + 1, [], 0


def _too_long(index: int, size: str, backend: Backend) -> TextTooLong:
    return TextTooLong(
        f"text {index} has {size}; the model takes {backend.max_tokens} tokens, "
        "prompt and special tokens included",
        index,
    )
