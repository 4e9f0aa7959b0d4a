"""How the assets speak to Dagster: one clear failure, typed columns, figures."""

import base64
import functools
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import dagster as dg
import pyarrow as pa
from dagster import DagsterExecutionInterruptedError as Interruption
from dagster import DagsterRunStatus

from rba_pipeline.assets.checks import results_of_failure
from rba_pipeline.core.errors import RbaError
from rba_pipeline.core.plots import pace_plot
from rba_pipeline.core.windows import Window
from rba_pipeline.partitions import window_of
from rba_pipeline.resources.embedding_stream import Traffic

# Of a long path, how many steps are told in words.
_STEPS_TOLD = 8

Recipe = TypeVar("Recipe", bound=Callable[..., Any])


class DagsterExecutionInterruptedError(dg.DagsterError, Interruption):
    """The end of a step that was interrupted.

    Dagster announces another try of such a step, which never comes, if it has a retry policy. Only
    its own errors pass by the policy. Its executor knows an interruption by this name.
    """


def one_message(recipe: Recipe, retried: tuple[type[RbaError], ...] = ()) -> Recipe:
    """Let a recipe that fails on purpose end its step with that one message.

    Dagster's own retries are for steps whose process died. A run that is interrupted counts as
    cancelled, whoever sent the signal.

    Args:
        retried: What the step's retry policy is for as well: failures that the recipe has hardly
            waited for, or not at all.
    """

    @functools.wraps(recipe)
    def reported(context: dg.AssetExecutionContext, **neighbours: Any) -> Any:
        try:
            made = recipe(context, **neighbours)
            # A step that makes no asset of its own has nothing to hand over.
            if made is not None:
                yield made
        except (Interruption, KeyboardInterrupt) as interruption:
            # Dagster takes SIGTERM for a failure, unless somebody asked it for the end of the run.
            run = context.instance.get_run_by_id(context.run_id)
            if run is not None and run.status is DagsterRunStatus.STARTED:
                context.instance.report_run_canceling(run)
            raise DagsterExecutionInterruptedError("the run was cancelled") from interruption
        except RbaError as error:
            if context.has_assets_def:
                yield from results_of_failure(context.asset_key.to_user_string(), error)
            # It says what to do; the traces of its causes would only bury it, and so would another
            # try: mostly, what may pass was waited for, and tried again, before it was raised.
            where = [f"partition {context.partition_key}"] if context.has_partition_key else []
            raise dg.Failure(
                _described(error, where), allow_retries=isinstance(error, retried)
            ) from None

    return cast(Recipe, reported)


def _described(error: RbaError, where: list[str]) -> str:
    """Return kind, message, what to do, and where: also what was noted on the error's way here."""
    hint = f". {error.hint}" if error.hint else ""
    noted = "; ".join([*where, *getattr(error, "__notes__", [])])
    return f"{type(error).__name__}: {error}{hint}" + (f" ({noted})" if noted else "")


def window_in(context: dg.AssetExecutionContext) -> Window:
    """Return the dates of the partition that is materialised."""
    partitions = cast(dg.TimeWindowPartitionsDefinition, context.assets_def.partitions_def)
    return window_of(partitions, context.partition_key)


def columns(schema: pa.Schema) -> dict[str, Any]:
    """Return the metadata that shows a Parquet schema's columns in the UI."""
    shown = [
        dg.TableColumn(field.name, type=_kind(field.type), description=_meaning(field))
        for field in schema
    ]
    return {"dagster/column_schema": dg.TableSchema(columns=shown)}


def _kind(kind: pa.DataType) -> str:
    """Return the name of a type, without what only readers of the file want to know."""
    if pa.types.is_dictionary(kind):
        return _kind(kind.value_type)
    if pa.types.is_list(kind):
        return f"list of {_kind(kind.value_type)}"
    return "struct" if pa.types.is_struct(kind) else str(kind)


def _meaning(field: pa.Field) -> str | None:
    meaning = (field.metadata or {}).get(b"meaning")
    return meaning.decode() if meaning else None


def counted(reasons: Iterable[str]) -> dict[str, int]:
    """Return how often each reason occurs, the commonest first."""
    return dict(Counter(reasons).most_common())


def traffic_of(traffic: Traffic) -> dict[str, Any]:
    """Return what the run cost at the service, and its speed; no speed when nothing was sent."""
    # In a plot, 0 would be a service that stands still; what is not there leaves a gap.
    speed = (
        {
            "chunks_per_second": round(traffic.texts / traffic.seconds, 2),
            "tokens_per_second": round(traffic.tokens / traffic.seconds, 1),
        }
        if traffic.texts and traffic.seconds
        else {}
    )
    return {
        "tokens": traffic.tokens,
        "requests": traffic.requests,
        "refusals": traffic.refusals,
        "probes": traffic.probes,
        "texts_sent": traffic.texts_sent,
        "texts_by_address": traffic.by_address,
        "stream_seconds": round(traffic.seconds, 3),
        "request_seconds": round(traffic.answers.total, 3),
        **speed,
    }


def picture_of(traffic: Traffic) -> str:
    """Return Markdown with a picture of the pace, and what its last steps were for."""
    if not traffic.path:
        return "nothing was sent"
    steps = [
        (step.at_s, step.bounds.batch_size, step.bounds.parallel_batches) for step in traffic.path
    ]
    encoded = base64.b64encode(pace_plot(steps, traffic.seconds).encode()).decode()
    last, changes = traffic.path[-1].bounds, len(traffic.path) - 1
    how_often = {0: "From beginning to end", 1: "1 change, at the end"}.get(
        changes, f"{changes} changes, at the end"
    )
    return (
        f"![pace](data:image/svg+xml;base64,{encoded})\n\n{how_often} {last.batch_size} texts per "
        f"request × {last.parallel_batches} requests in flight\n\n"
        + "\n".join(
            f"- {step.at_s:.0f} s: {step.bounds.batch_size} × {step.bounds.parallel_batches}, "
            f"{step.why}"
            for step in traffic.path[-_STEPS_TOLD:]
        )
    )
