"""How the assets tell where time went: figures for plots, pictures, and what bounds a run."""

import base64
import time
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from rba_pipeline.core.bottleneck import Leaning, bottleneck
from rba_pipeline.core.presets import Bounds
from rba_pipeline.core.stage_plot import stage_plot
from rba_pipeline.core.stages import ABOUT, STAGES_OF, Stage, StepTimes, level_of
from rba_pipeline.resources.embedding_stream import Traffic
from rba_pipeline.resources.service_answers import ServiceInfo, Work

_PREFIX = "seconds_"
# What the embeddings say of how the run leaned on the service, for the report of the whole run.
LEANING = "usual_pace"


def times_of(times: StepTimes) -> dict[str, float]:
    """Return a step's wall seconds, in all and by stage; each of its stages is there."""
    by_stage = {f"{_PREFIX}{stage}": round(spent, 3) for stage, spent in times.seconds.items()}
    return {"seconds": round(times.total, 3), **by_stage}


def work_of(
    before: Mapping[str, Work], after: Mapping[str, Work], seconds: float
) -> dict[str, float]:
    """Return the share of padding in the tokens computed, and of time that the models were busy.

    The padding of attention is not in the share: the service counts it in pairs of tokens.
    Whatever the service did for other callers meanwhile is in both. Empty where it does not say.
    """
    # One that was restarted counts from 0 again.
    both = [
        (before[address], now)
        for address, now in after.items()
        if address in before and now.tokens >= before[address].tokens
    ]
    busy_s = sum(now.busy_s - then.busy_s for then, now in both)
    tokens = sum(now.tokens - then.tokens for then, now in both)
    padded = sum(now.padded_tokens - then.padded_tokens for then, now in both)
    if not both or padded <= 0 or seconds <= 0:
        return {}
    return {
        "padding_share": round(max(0.0, 1 - tokens / padded), 4),
        "model_busy_share": round(busy_s / len(both) / seconds, 4),
    }


def leaning_of(
    traffic: Traffic, info: ServiceInfo, *, upper: Bounds, adaptive: bool
) -> Leaning | None:
    """Return how the run leaned on the service within ``upper``; ``None`` if it sent nothing."""
    if not traffic.path:
        return None
    ends = [step.at_s for step in traffic.path[1:]] + [traffic.seconds]
    # The last setting is often that of the last few texts.
    _, usual = max(
        ((end - step.at_s, step) for end, step in zip(ends, traffic.path, strict=True)),
        key=lambda held: held[0],
    )
    return Leaning(
        usual.bounds.batch_size,
        usual.bounds.parallel_batches,
        upper.batch_size,
        upper.parallel_batches,
        info.server_batch_size,
        info.device,
        traffic.requests,
        traffic.refusals,
        adaptive,
    )


def timings_picture(times: StepTimes, traffic: Traffic) -> str:
    """Return Markdown with a picture of a step's stages, and of what its requests did."""
    bars: list[tuple[str, Mapping[Stage, float]]] = [("wall time", times.seconds)]
    said = ""
    if traffic.answers.told:
        bars.append(("requests", traffic.answers.by_stage()))
        said = (
            f"\n\nRequests were open for {traffic.answers.total:.1f} s together: those that are "
            "open at once count each. The wall time that went into waiting for them is divided in "
            "the same proportion. Padding and the time that the models were busy are the service's "
            "own figures, with what it did for other callers meanwhile."
        )
    return _picture("timings", stage_plot(bars, to_scale=False)) + said


def report(
    steps: Sequence[StepTimes], leaning: Leaning | None, *, run_s: float = 0.0
) -> dict[str, Any]:
    """Return the level that bounds these steps, its share, and the report in Markdown.

    Args:
        run_s: Wall seconds since the run began, if the steps are all of it.
    """
    found = bottleneck(steps, leaning)
    if found is None:
        return {}
    picture = _picture("steps", stage_plot([(s.asset, s.seconds) for s in steps], to_scale=True))
    beside_s = run_s - found.seconds
    beside = (
        f"Beside these steps the run took {beside_s:.1f} s to start their processes, and to wait "
        "for a place in a pool.\n\n"
        if beside_s > 0
        else ""
    )
    return {
        "bottleneck": str(found.level),
        "bottleneck_share": round(found.share, 4),
        "bottleneck_report": dg.MetadataValue.md(
            f"**{found.sentence}**\n\n{beside}{picture}\n\n{_table(steps)}"
        ),
    }


def earlier_in_run(context: dg.AssetExecutionContext) -> tuple[list[StepTimes], Leaning | None]:
    """Return what the steps before this one said in this run, and how it leaned on the service.

    They ran in other processes: their metadata in Dagster's log is what is left of them.
    """
    log = context.instance.get_records_for_run(
        context.run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
    )
    steps: dict[str, StepTimes] = {}
    leaning = None
    for record in log.records:
        made = record.asset_materialization
        if made is None or made.asset_key.to_user_string() not in STAGES_OF:
            continue
        asset = made.asset_key.to_user_string()
        said = {name: value.value for name, value in made.metadata.items()}
        steps[asset] = StepTimes(
            asset,
            {stage: float(said.get(f"{_PREFIX}{stage}") or 0.0) for stage in STAGES_OF[asset]},
        )
        if isinstance(leant := said.get(LEANING), dict):
            leaning = Leaning(**leant)
    return list(steps.values()), leaning


def seconds_of_run(context: dg.AssetExecutionContext) -> float:
    """Return the wall seconds since the run began; 0 where Dagster does not know it."""
    record = context.instance.get_run_record_by_id(context.run.run_id)
    return time.time() - record.start_time if record and record.start_time else 0.0


def _table(steps: Sequence[StepTimes]) -> str:
    whole = sum(step.total for step in steps)
    rows = ["| step | stage | level | seconds | share |", "| --- | --- | --- | ---: | ---: |"]
    rows += [
        f"| {step.asset} | {ABOUT[stage].label} | {level_of(stage)} "
        f"| {spent:.2f} | {spent / whole:.0%} |"
        for step in steps
        for stage, spent in step.seconds.items()
        if spent >= 0.005
    ]
    return "\n".join([*rows, f"| **all** | | | **{whole:.2f}** | |"])


def _picture(name: str, svg: str) -> str:
    return f"![{name}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"
