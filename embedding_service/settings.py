"""Every knob of the service, with unit, default, range and a sentence."""

import ipaddress
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from embedding_service.cores import usable_cores
from embedding_service.errors import SettingRefused

PREFIX = "EMBEDDING_"


class Settings(BaseSettings):
    """Read from the environment; the name of each variable is ``EMBEDDING_`` and the field."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    model: Annotated[str, Field(min_length=1)] = Field(
        default="all-MiniLM-L6-v2",
        description="The packaged model's name, a folder, or owner/name on the model hub.",
    )
    model_revision: str | None = Field(
        default=None, description="Commit to load; required for a model of the hub."
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto",
        description="Where the model runs; auto takes an accelerator if there is one.",
    )
    threads: int = Field(
        default_factory=usable_cores,
        ge=1,
        le=1024,
        description="Threads of one forward pass; by default the cores this process may use.",
    )
    server_batch_size: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Most texts in one forward pass; by default 32 on a CPU, 256 elsewhere.",
    )
    max_batch_tokens: int | None = Field(
        default=None,
        ge=1,
        le=2**20,
        description="Most padded tokens in one forward pass; by default 2048 on a CPU, else 65536.",
    )
    max_queue_tokens: int = Field(
        default=524_288,
        ge=1,
        le=2**28,
        description="Most tokens that wait at once; a request beyond that is refused with 429.",
    )
    max_seq_length: int | None = Field(
        default=None,
        ge=8,
        le=8192,
        description="Longest text in tokens, prompt included; by default the model's own limit.",
    )
    max_texts: int = Field(default=2048, ge=1, le=65_536, description="Most texts in one request.")
    max_body_bytes: int = Field(
        default=16 * 2**20, ge=1024, le=2**30, description="Largest body of a request, in bytes."
    )
    api_key: SecretStr | None = Field(
        default=None, description="Secret that callers send; required unless bound to loopback."
    )
    host: Annotated[str, Field(min_length=1)] = Field(
        default="127.0.0.1", description="Address to listen on."
    )
    port: int = Field(
        default=8000, ge=0, le=65_535, description="Port to listen on; 0 takes any free one."
    )
    drain_seconds: float = Field(
        default=30, ge=0, le=3600, description="How long accepted requests may take after SIGTERM."
    )

    @field_validator("api_key")
    @classmethod
    def _usable_key(cls, key: SecretStr | None) -> SecretStr | None:
        if key is None:
            return None
        text = key.get_secret_value()
        if not text or not all("!" <= char <= "~" for char in text):
            raise ValueError("expected visible ASCII characters, at least one, or leave it unset")
        return key

    @model_validator(mode="after")
    def _no_open_door(self) -> Self:
        if self.api_key is None and not _is_loopback(self.host):
            raise ValueError(
                f"{PREFIX}API_KEY: required, because {PREFIX}HOST={self.host} is not loopback"
            )
        return self


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_settings(**overrides: Any) -> Settings:
    """Return the settings of the environment, ``overrides`` before them.

    Raises:
        SettingRefused: One line for each value out of range, with name, value and range.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        lines = [_explain(found) for found in error.errors(include_url=False)]
        raise SettingRefused("\n".join(dict.fromkeys(lines))) from None


def _explain(found: Any) -> str:
    reason = str(found["msg"]).removeprefix("Value error, ")
    if not found["loc"]:
        return reason
    name = str(found["loc"][0])
    field = Settings.model_fields.get(name)
    value = "(not shown)" if name == "api_key" else repr(found["input"])
    limits = {type(limit).__name__: limit for limit in field.metadata} if field else {}
    if "Ge" in limits and "Le" in limits:
        reason = f"expected a number from {limits['Ge'].ge} to {limits['Le'].le}"
    elif found["type"] == "literal_error":
        reason = f"expected {found['ctx']['expected']}"
    about = f" ({field.description})" if field and field.description else ""
    return f"{PREFIX}{name.upper()}={value}: {reason}{about}"
