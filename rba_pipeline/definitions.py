"""The code location: chooses implementations and reads the environment, nobody else does."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import yaml

from rba_pipeline.assets.chunks import chunks_asset
from rba_pipeline.assets.documents import documents_asset
from rba_pipeline.assets.embeddings import embeddings_asset
from rba_pipeline.assets.vectors import vectors_asset
from rba_pipeline.core.backlog import USUAL_STEPS
from rba_pipeline.core.errors import BadSetting
from rba_pipeline.core.parsing.limits import LIMITS, ParseLimits, variable
from rba_pipeline.core.presets import RANGES, Preset, whole_number
from rba_pipeline.jobs import PUBLISH, plan_job, publish_partition
from rba_pipeline.partitions import partitions_by
from rba_pipeline.resources.chunking import Chunking
from rba_pipeline.resources.document_source import DocumentSource
from rba_pipeline.resources.embedding import Embedding
from rba_pipeline.resources.embedding_store import EmbeddingStore
from rba_pipeline.resources.record_store import RecordStore
from rba_pipeline.resources.vector_store import VectorStore
from rba_pipeline.resources.with_defaults import with_defaults
from rba_pipeline.schedules import monthly_backfill, nightly
from rba_pipeline.sensors import publications_changed
from rba_pipeline.tuning_job import tuning_job
from rba_pipeline.upkeep import backfill_stale_job, config_of

# For a step whose process was killed: it goes on where it was. More would only hide what kills it.
ONE_MORE_TRY = dg.RetryPolicy(max_retries=1, delay=5)

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


def build_resources(settings: Settings) -> dict[str, dg.ConfigurableResource]:
    """Return the neighbours of the assets, by the name that run config uses."""
    return {
        "source": with_defaults(
            DocumentSource,
            url=settings.source,
            corpus=settings.corpus,
            store=settings.store,
            first_year=settings.first_year,
            **asdict(settings.limits),
        ),
        "records": with_defaults(RecordStore, store=settings.store, corpus=settings.corpus),
        "chunking": with_defaults(
            Chunking, chunk_tokens=settings.chunk_tokens, chunk_overlap=settings.chunk_overlap
        ),
        "embedding": with_defaults(
            Embedding,
            preset=settings.preset,
            batch_size=settings.batch_size,
            parallel_batches=settings.parallel_batches,
            timeout_s=settings.timeout_s,
            outage_s=settings.outage_s,
            adaptive=settings.adaptive,
            backlog_batches=settings.backlog_batches,
            truncate=settings.truncate,
            api_url=settings.api_url,
            api_key=dg.EnvVar("EMBEDDING_API_KEY") if settings.has_api_key else "",
            tuned_file=settings.tuned_file,
        ),
        "embedding_store": with_defaults(
            EmbeddingStore, store=settings.store, corpus=settings.corpus
        ),
        "vector_store": with_defaults(
            VectorStore, database_url=dg.EnvVar("RBA_DATABASE_URL"), corpus=settings.corpus
        ),
    }


def build_defs(
    settings: Settings, retry_policy: dg.RetryPolicy | None = ONE_MORE_TRY
) -> dg.Definitions:
    """Return everything that Dagster shows of one installation.

    Args:
        retry_policy: What Dagster does about a step that fails, unless its failure forbids it.

    Raises:
        BadSetting: The scheduled runs could not be launched with their run config.
    """
    partitions = partitions_by(settings.grain, settings.first_year)
    makers = (documents_asset, chunks_asset, embeddings_asset, vectors_asset)
    resources = build_resources(settings)
    assets = dg.Definitions(
        assets=[make(partitions, retry_policy) for make in makers], resources=resources
    )
    untuned = build_resources(replace(settings, preset=Preset("auto")))
    tuning = tuning_job(untuned, str(SAMPLE_CORPUS))
    by_itself = _launching_by_itself(settings, partitions, resources)
    made = dg.Definitions.merge(assets, plan_job(partitions), tuning, by_itself)
    if settings.scheduled_run_config:
        check_run_config(made, settings.scheduled_run_config, f"{SCHEDULED_RUN_CONFIG}: ")
    return made


def _launching_by_itself(
    settings: Settings,
    partitions: dg.TimeWindowPartitionsDefinition,
    resources: Mapping[str, dg.ConfigurableResource],
) -> dg.Definitions:
    """Return the job of a partition, and what launches it without a person."""
    run_config = settings.scheduled_run_config
    backfill_stale = backfill_stale_job(partitions, resources, run_config)
    return dg.Definitions(
        jobs=[publish_partition, backfill_stale],
        schedules=[
            nightly(partitions, run_config),
            monthly_backfill(backfill_stale, config_of(run_config)),
        ],
        sensors=[publications_changed(partitions, backfill_stale, run_config, settings.sensor_s)],
    )


def check_run_config(
    made: dg.Definitions, run_config: Mapping[str, Any], given_as: str = ""
) -> None:
    """Refuse what Dagster would refuse when a partition's run is launched, with the same message.

    Args:
        given_as: What the message begins with.

    Raises:
        BadSetting: A value is out of range, of another type, or nothing that Dagster knows.
    """
    try:
        dg.validate_run_config(made.resolve_job_def(PUBLISH), dict(run_config))
    except dg.DagsterInvalidConfigError as error:
        told = "; ".join(each.message for each in error.errors) or str(error)
        raise BadSetting(f"{given_as}{told}") from None


def corpus_name(source: str) -> str:
    """Return the last part of a folder or URL: a corpus' name unless RBA_CORPUS says else."""
    path = urlsplit(source).path if "://" in source else str(Path(source).resolve())
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


@dg.definitions
def defs() -> dg.Definitions:
    """Return the definitions for the environment of this process."""
    return build_defs(Settings.read(os.environ))
