"""The job ``tune_embedding``: the same as ``rba-pipeline tune``, from the web interface."""

import base64
from collections.abc import Mapping
from typing import Any

import dagster as dg
from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from rba_pipeline.assets.reporting import one_message
from rba_pipeline.core.tuning_plots import name_of, rates_plot
from rba_pipeline.resources.chunking import Chunking
from rba_pipeline.resources.embedding import Embedding
from rba_pipeline.resources.record_store import RecordStore
from rba_pipeline.resources.tuned_file import require_place, write_tuned
from rba_pipeline.tune import Plan, Tuning, line_of, sample_texts, tune

TUNE = "tune_embedding"
# Every run of the job leaves its figures here: plots over time, in the catalogue of assets.
TUNED_PRESET = "tuned_preset"


# Lowest and highest value allowed, and the unit.
_RANGES: Mapping[str, tuple[float, float, str]] = {
    "texts": (1, 100_000, "texts"),
    "seconds_per_setting": (0.1, 600, "seconds"),
    "wait_s": (0, 86_400, "seconds"),
}


def _field(name: str, default: float, sentence: str) -> Any:
    low, high, unit = _RANGES[name]
    told = f"{sentence} {low:,} to {high:,} {unit}."
    return Field(default=default, ge=low, le=high, description=told)


class TuneConfig(dg.Config):
    """How to measure. Dagster itself looks at the ranges only inside the run."""

    texts: int = _field("texts", 512, "How many different texts are sent.")
    seconds_per_setting: float = _field(
        "seconds_per_setting", 5.0, "How long each setting is measured."
    )
    wait_s: float = _field(
        "wait_s", 600, "How long to wait for a service that works for somebody else."
    )


class _CheckedOp(dg.OpDefinition):
    """Refuses values out of range as soon as Dagster reads a run's config, like checked resources.

    The method is not public: the Dagster version is pinned, and a test gives it bad values.
    """

    def apply_config_mapping(self, config: Any) -> Any:
        values = (config.get("config") or {}).items()
        try:
            # A reference to a variable is looked up only inside the run, and checked there.
            TuneConfig(**{name: each for name, each in values if not isinstance(each, dict)})
        except ValidationError as error:
            told = "; ".join(
                f"{each['loc'][0]}={each['input']!r}: {_allowed(each)}" for each in error.errors()
            )
            refused = f"Invalid settings of {TUNE}: {told}"
            raise dg.DagsterInvalidConfigError(refused, [], config) from None  # type: ignore[no-untyped-call]
        return super().apply_config_mapping(config)


def _allowed(problem: ErrorDetails) -> str:
    """Return what may stand where pydantic found a problem."""
    name = str(problem["loc"][0])
    if name not in _RANGES:
        return problem["msg"]
    low, high, unit = _RANGES[name]
    return f"allowed is {low:,} to {high:,} ({unit})"


def tuning_job(
    resources: Mapping[str, dg.ConfigurableResource[Any]], sample_corpus: str
) -> dg.Definitions:
    """Return the job.

    Args:
        resources: ``embedding``, ``records`` and ``chunking``. The preset of the first must not be
            ``tuned``: the job would need its own result.
        sample_corpus: Folder of publications, for a corpus that has no chunks yet.
    """

    @dg.op(pool="embedding", out=dg.Out(dg.Nothing))
    @one_message
    def tune_setting(
        context: dg.OpExecutionContext,
        config: TuneConfig,
        embedding: Embedding,
        records: RecordStore,
        chunking: Chunking,
    ) -> None:
        """Measure settings of batch size and parallelism, and keep the best as preset ``tuned``.

        It holds a place of the pool ``embedding``, and waits until the service has no requests.
        """
        plan = Plan(config.texts, config.seconds_per_setting, config.wait_s)
        require_place(embedding.tuned_file)
        sampled = sample_texts(records, chunking, sample_corpus, plan.texts)
        found = tune(embedding, sampled, plan, context.log.info)
        for note in found.notes:
            context.log.warning(note)
        write_tuned(embedding.tuned_file, found.preset)
        context.log_event(
            dg.AssetMaterialization(TUNED_PRESET, metadata=_metadata(found, embedding.tuned_file))
        )

    tune_setting.__class__ = _CheckedOp

    @dg.job(
        name=TUNE,
        description="Finds the fastest batch size and parallelism of the embedding service, and "
        "writes them as preset 'tuned'. Config: ops > tune_setting > config. Stores no vector.",
        resource_defs={name: resources[name] for name in ("embedding", "records", "chunking")},
    )
    def tune_embedding() -> None:
        tune_setting()

    return dg.Definitions(jobs=[tune_embedding])


def _metadata(found: Tuning, place: str) -> dict[str, dg.MetadataValue | str | int | float]:
    preset = found.preset
    picture = base64.b64encode(rates_plot(found.past, preset.bounds).encode()).decode()
    return {
        "batch_size": preset.bounds.batch_size,
        "parallel_batches": preset.bounds.parallel_batches,
        "chunks_per_second": round(preset.rate, 2),
        "recommended": f"{name_of(preset.bounds)}: {preset.why}",
        "settings": dg.MetadataValue.md(f"![settings](data:image/svg+xml;base64,{picture})"),
        "measurements": dg.MetadataValue.md(
            "\n".join(f"    {line_of(each)}" for each in found.past)
        ),
        "texts": found.sample,
        "notes": dg.MetadataValue.md("\n".join(f"- {each}" for each in found.notes) or "none"),
        "file": place,
    }
