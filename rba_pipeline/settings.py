"""The environment of one installation, as checked values."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from rba_pipeline.core.backlog import USUAL_STEPS
from rba_pipeline.core.errors import BadSetting
from rba_pipeline.core.parsing.limits import LIMITS, ParseLimits, variable
from rba_pipeline.core.presets import RANGES, Preset, whole_number
from rba_pipeline.partitions import partitions_by
from rba_pipeline.resources.chunking import Chunking
from rba_pipeline.resources.embedding import Embedding

SCHEDULED_RUN_CONFIG = "RBA_SCHEDULED_RUN_CONFIG"

_RANGED = {
    "EMBEDDING_BATCH_SIZE": "batch_size",
    "EMBEDDING_PARALLEL_BATCHES": "parallel_batches",
    "EMBEDDING_API_TIMEOUT": "timeout_s",
    "EMBEDDING_OUTAGE_SECONDS": "outage_s",
}

SAMPLE_CORPUS = Path(__file__).parent / "sample_corpus"


@dataclass(frozen=True, slots=True)
class Settings:
    """The environment of one installation, checked; secrets stay in ``dg.EnvVar``."""

    source: str
    corpus: str
    store: str
    grain: str
    first_year: int
    limits: ParseLimits
    chunk_tokens: int
    chunk_overlap: int
    preset: Preset
    batch_size: int | None
    parallel_batches: int | None
    timeout_s: int
    outage_s: int
    adaptive: bool
    backlog_batches: str
    truncate: bool
    api_url: str
    has_api_key: bool
    tuned_file: str
    sensor_s: int
    scheduled_run_config: Mapping[str, Any]

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "Settings":
        """Return the settings that the variables stand for.

        Raises:
            BadSetting: A value cannot be read or is out of range; the message names variable and
            range.
        """
        source = environment.get("RBA_SOURCE") or str(SAMPLE_CORPUS)
        store = environment.get("RBA_STORE") or str(Path.cwd() / ".state" / "store")
        settings = cls(
            source=source,
            corpus=environment.get("RBA_CORPUS") or corpus_name(source),
            store=store,
            grain=environment.get("RBA_GRAIN") or "year",
            first_year=_whole_number(environment, "RBA_FIRST_YEAR", 1990),
            limits=_limits(environment),
            chunk_tokens=_whole_number(environment, "RBA_CHUNK_TOKENS", 512),
            chunk_overlap=_whole_number(environment, "RBA_CHUNK_OVERLAP", 64),
            preset=_preset(environment.get("EMBEDDING_PRESET") or "auto"),
            batch_size=_optional(environment, "EMBEDDING_BATCH_SIZE"),
            parallel_batches=_optional(environment, "EMBEDDING_PARALLEL_BATCHES"),
            timeout_s=_whole_number(environment, "EMBEDDING_API_TIMEOUT", 240),
            outage_s=_whole_number(environment, "EMBEDDING_OUTAGE_SECONDS", 300),
            adaptive=_claim(environment, "EMBEDDING_ADAPTIVE", "true"),
            backlog_batches=environment.get("EMBEDDING_BACKLOG_BATCHES") or USUAL_STEPS,
            truncate=_claim(environment, "EMBEDDING_TRUNCATE", "false"),
            api_url=environment.get("EMBEDDING_API_URL") or "http://127.0.0.1:8000",
            has_api_key=bool(environment.get("EMBEDDING_API_KEY")),
            tuned_file=environment.get("RBA_TUNED_PRESET") or f"{store}/tuned.json",
            sensor_s=_whole_number(environment, "RBA_SENSOR_SECONDS", 300),
            scheduled_run_config=_run_config(environment),
        )
        if not 5 <= settings.sensor_s <= 86_400:
            raise BadSetting(
                f"RBA_SENSOR_SECONDS={settings.sensor_s}: allowed is 5 to 86400 (seconds between "
                "two looks at the source)"
            )
        partitions_by(settings.grain, settings.first_year)
        Embedding.check(
            {name: getattr(settings, name) for name in (*RANGES, "backlog_batches", "api_url")}
        )
        Chunking.check(
            {"chunk_tokens": settings.chunk_tokens, "chunk_overlap": settings.chunk_overlap}
        )
        return settings


def corpus_name(source: str) -> str:
    """Return the last part of a folder or URL: a corpus' name unless RBA_CORPUS says else."""
    try:
        path = urlsplit(source).path if "://" in source else str(Path(source).resolve())
    except ValueError as error:
        raise BadSetting(
            f"RBA_SOURCE={source!r} is no address ({error}): expected a folder, or a URL like "
            "s3://bucket/folder"
        ) from None
    name = path.rstrip("/").rpartition("/")[2]
    if not name:
        raise BadSetting(
            f"RBA_SOURCE={source!r} has no last part to name the corpus by: set RBA_CORPUS"
        )
    return name


def _limits(environment: Mapping[str, str]) -> ParseLimits:
    return ParseLimits(
        **{
            name: _whole_number(environment, variable(name), limit.default)
            for name, limit in LIMITS.items()
        }
    )


def _whole_number(environment: Mapping[str, str], name: str, default: int = 0) -> int:
    text = environment.get(name, "").strip()
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        allowed = whole_number(_RANGED[name]) if name in _RANGED else "whole number"
        raise BadSetting(f"{name}={text!r}: expected a {allowed}") from None


def _run_config(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return what is set for the runs of schedules and sensor; whether it fits is seen later."""
    text = environment.get(SCHEDULED_RUN_CONFIG) or "{}"
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadSetting(f"{SCHEDULED_RUN_CONFIG} is neither YAML nor JSON: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise BadSetting(
            f"{SCHEDULED_RUN_CONFIG}={text!r}: expected a run config as the Launchpad takes it, "
            "like {resources: {embedding: {config: {preset: cpu-prod}}}}"
        )
    resources = found.get("resources", {})
    # The job that starts backfills takes some of them, before Dagster looks at the whole.
    if not isinstance(resources, dict):
        raise BadSetting(
            f"{SCHEDULED_RUN_CONFIG}: resources is {resources!r}, expected like {{embedding: "
            "{config: {preset: cpu-prod}}}; or leave it out"
        )
    return found


def _optional(environment: Mapping[str, str], name: str) -> int | None:
    return _whole_number(environment, name) if environment.get(name, "").strip() else None


def _preset(name: str) -> Preset:
    if name not in Preset.__members__:
        raise BadSetting(f"EMBEDDING_PRESET={name!r}: allowed are {', '.join(Preset.__members__)}")
    return Preset[name]


def _claim(environment: Mapping[str, str], name: str, default: str) -> bool:
    text = environment.get(name) or default
    claims = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in claims:
        raise BadSetting(f"{name}={text!r}: allowed are true and false")
    return claims[text.lower()]
