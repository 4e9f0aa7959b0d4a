"""The shapes of our answers, for the document at ``/openapi.json``; nothing is computed here."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from embedding_service.api.answers import Limits
from embedding_service.backend.base import Prompts


class _Answer(BaseModel):
    # A test holds every answer against these: a field that is not described here is found by it.
    model_config = ConfigDict(extra="forbid")


class EmbeddingItem(_Answer):
    """One text's vector."""

    object: Literal["embedding"]
    index: int = Field(ge=0, description="Place of the text in the request's input.")
    embedding: list[float] | str = Field(
        description="A unit vector: numbers, or base64 of little-endian float32."
    )
    tokens: int = Field(ge=1, description="Prompt and special tokens included.")
    truncated: bool = Field(description="Whether the text was cut to fit the model.")


class Usage(_Answer):
    """Tokens of the whole request."""

    prompt_tokens: int = Field(ge=1)
    total_tokens: int = Field(ge=1)


class EmbeddingAnswer(_Answer):
    """One item for each text, in the order of ``input``."""

    object: Literal["list"]
    model: str
    data: list[EmbeddingItem] = Field(min_length=1)
    usage: Usage
    space: str = Field(description="Vectors of two spaces may never be compared.")


class ErrorDetail(_Answer):
    """What went wrong; never a text and never a key."""

    code: str = Field(description="Stable, for programs.")
    message: str = Field(description="For people.")
    index: int | None = Field(
        default=None, ge=0, description="Place in input of the text at fault, if it is one text's."
    )


class ErrorAnswer(_Answer):
    """Every answer that is not a success has this shape."""

    error: ErrorDetail


class LiveAnswer(_Answer):
    live: Literal[True]


class ReadyAnswer(_Answer):
    ready: Literal[True]


class HealthAnswer(_Answer):
    """State and counters; answered in every state."""

    live: Literal[True]
    ready: bool
    model: str | None = Field(description="Null until it is loaded.")
    device: str | None = Field(description="Null until the model is loaded.")
    stats: dict[str, float] = Field(
        description="Counters since the process began, and what is inside now."
    )


class InfoAnswer(_Answer):
    """What is served here, and what a client must know to split its work by itself."""

    model: str
    revision: str
    device: str
    cores: int = Field(ge=1)
    runtime: str
    precision: str
    dimensions: int = Field(ge=1)
    max_tokens: int = Field(ge=1, description="Longest text, prompt and special tokens included.")
    prompts: Prompts
    tokenizer_sha256: str
    space: dict[str, str | int | bool] = Field(
        description="Everything that gives a vector its meaning, and the id that stands for it."
    )
    limits: Limits
    version: str
