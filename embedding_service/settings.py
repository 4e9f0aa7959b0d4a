"""Every knob of the service, with unit, default, range and a sentence."""

import ipaddress
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ByteSize, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
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
    runtime: Literal["auto", "torch", "openvino"] = Field(
        default="auto",
        description="What computes; auto takes OpenVINO on a CPU where it is installed.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = Field(
        default="auto",
        description="Numbers computed in; auto: bf16 by OpenVINO and on CUDA where there are "
        "instructions for it, fp16 on mps and on older CUDA cards, else fp32, as torch always on "
        "a CPU. int8 is an embedding space of its own.",
    )
    cache_dir: Path = Field(
        default=Path("~/.cache/embedding_service"),
        description="Folder for models prepared for OpenVINO; keep it between restarts.",
    )
    calibration: Path | None = Field(
        default=None,
        description="Texts to calibrate int8 with, one per line; by default a built-in sample.",
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
        le=2048,
        description="Most texts in one forward pass, on a CPU at most 512; by default 32 there, "
        "256 elsewhere.",
    )
    max_batch_tokens: int | None = Field(
        default=None,
        ge=1,
        le=2**20,
        description="Most padded tokens in one forward pass; by default 2048 on a CPU, else 32768.",
    )
    max_queue_tokens: int = Field(
        default=2**21,
        ge=1,
        le=2**28,
        description="Most tokens of documents that wait at once, and an eighth of it for queries; "
        "what finds no room is refused with 429, and a request that is larger with 413.",
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
    max_request_memory: ByteSize = Field(
        default=ByteSize(256 * 2**20),
        ge=2**20,
        le=2**40,
        description="Most bytes that all requests together may hold, such as 256MiB; beyond: 429.",
    )
    max_memory: ByteSize | None = Field(
        default=None,
        ge=2**26,
        le=2**44,
        description="Most memory of the process, such as 3GiB, under which forward passes are "
        "kept; by default 90 % of the container's limit, else 80 % of the machine's memory; "
        "on a CPU only.",
    )
    watchdog_seconds: float = Field(
        default=300,
        ge=1,
        le=3600,
        description="A forward pass that takes longer, in seconds, ends the service.",
    )
    max_connections: int = Field(
        default=1024,
        ge=1,
        le=65_536,
        description="Most open connections; one more is answered with 503 and closed.",
    )
    body_seconds: float = Field(
        default=60,
        ge=0.1,
        le=3600,
        description="How long a body may take to arrive, and an answer to be taken, in seconds.",
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="Readable lines, or one JSON object per line."
    )
    api_key: SecretStr | None = Field(
        default=None,
        description="Secret that callers send; several, comma separated, are all accepted; "
        "required unless bound to loopback.",
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
        for item in key.get_secret_value().split(","):
            if not item or not all("!" <= char <= "~" for char in item):
                raise ValueError(
                    "expected visible ASCII characters, at least one for each of the keys "
                    "between commas, or leave it unset"
                )
        return key

    @model_validator(mode="after")
    def _room_for_a_body(self) -> Self:
        # While it is parsed, a body is there as bytes, as characters and as texts.
        least = 4 * self.max_body_bytes
        if self.max_request_memory < least:
            raise ValueError(
                f"{PREFIX}MAX_REQUEST_MEMORY={int(self.max_request_memory)}: expected at least "
                f"{least}, four times {PREFIX}MAX_BODY_BYTES"
            )
        return self

    @model_validator(mode="after")
    def _no_open_door(self) -> Self:
        if self.api_key is None and not _is_loopback(self.host):
            raise ValueError(
                f"{PREFIX}API_KEY: required, because {PREFIX}HOST={self.host} is not loopback"
            )
        return self

    @property
    def api_keys(self) -> tuple[str, ...]:
        """The keys that open the service; none when everyone may come in."""
        return tuple(self.api_key.get_secret_value().split(",")) if self.api_key else ()


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


def misspelt(environment: Iterable[str]) -> dict[str, str]:
    """Return what in ``environment`` seems to be meant for a setting, and for which one.

    Names of nothing are no error: those of the service's callers have the same prefix.
    """
    known = [name.upper() for name in Settings.model_fields]
    given = [name.removeprefix(PREFIX) for name in environment if name.startswith(PREFIX)]
    found = {name: get_close_matches(name, known, 1, 0.8) for name in given if name not in known}
    return {PREFIX + name: PREFIX + near[0] for name, near in found.items() if near}


def described(field: FieldInfo) -> str:
    """Return the sentence about ``field``, with its default and its range where it has them."""
    default, range_ = field.get_default(), _range(field)
    if isinstance(default, ByteSize):
        default = default.human_readable(separator=" ")
    known = default is not None and not field.is_required() and field.default_factory is None
    facts = [f"by default {default}"] * known + [range_] * bool(range_)
    return f"{field.description} ({'; '.join(facts)})" if facts else str(field.description)


def _range(field: FieldInfo) -> str:
    limits = {type(limit).__name__: limit for limit in field.metadata}
    if "Ge" not in limits or "Le" not in limits:
        return ""
    return f"from {limits['Ge'].ge} to {limits['Le'].le}"


def _explain(found: Any) -> str:
    reason = str(found["msg"]).removeprefix("Value error, ")
    if not found["loc"]:
        return reason
    name = str(found["loc"][0])
    field = Settings.model_fields.get(name)
    value = "(not shown)" if name == "api_key" else repr(found["input"])
    if field and (range_ := _range(field)):
        reason = f"expected a number {range_}"
    elif found["type"] == "literal_error":
        reason = f"expected {found['ctx']['expected']}"
    about = f" ({field.description})" if field and field.description else ""
    return f"{PREFIX}{name.upper()}={value}: {reason}{about}"
