"""The code location: chooses implementations, and makes settings of the environment.

Besides it, only commands read the environment, and what starts processes, which makes theirs.
"""

import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, replace
from typing import Any

import dagster as dg

from rba_pipeline.assets.chunks import chunks_asset
from rba_pipeline.assets.documents import documents_asset
from rba_pipeline.assets.embeddings import embeddings_asset
from rba_pipeline.assets.vectors import vectors_asset
from rba_pipeline.core.errors import BadSetting
from rba_pipeline.core.presets import TUNED, Preset
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
from rba_pipeline.settings import SAMPLE_CORPUS, SCHEDULED_RUN_CONFIG, Settings
from rba_pipeline.tuning_job import tuning_job
from rba_pipeline.upkeep import backfill_stale_job, config_of

# For a step whose process was killed: it goes on where it was. More would only hide what kills it.
ONE_MORE_TRY = dg.RetryPolicy(max_retries=1, delay=5)


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
        check_run_config(made, _as_if_tuned(settings), f"{SCHEDULED_RUN_CONFIG}: ")
    return made


def check_scheduled_runs(settings: Settings) -> None:
    """Refuse what no run of schedules and sensor could begin with just now, with its message.

    Raises:
        BadSetting: As ``build_defs``; or their preset was not measured yet.
    """
    made = build_defs(settings)
    if settings.scheduled_run_config:
        check_run_config(made, settings.scheduled_run_config, f"{SCHEDULED_RUN_CONFIG}: ")


def _as_if_tuned(settings: Settings) -> dict[str, Any]:
    """Return the run config of schedules and sensor, with another preset in place of ``tuned``.

    The job that measures it has to be there before its file is; Dagster refuses the runs.
    """
    run_config = deepcopy(dict(settings.scheduled_run_config))
    found: Any = run_config
    for name in ("resources", "embedding", "config"):
        found = found.setdefault(name, {}) if isinstance(found, dict) else None
    if isinstance(found, dict) and found.get("preset", settings.preset) == TUNED:
        found["preset"] = "auto"
    return run_config


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


@dg.definitions
def defs() -> dg.Definitions:
    """Return the definitions for the environment of this process."""
    return build_defs(Settings.read(os.environ))
