"""How the assets speak to Dagster: one clear failure, typed columns, progress."""

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import dagster as dg
import pyarrow as pa

from rba_pipeline.core.errors import (
    DatabaseBusy,
    DatabaseUnavailable,
    RbaError,
    ServiceOverloaded,
    ServiceUnavailable,
)
from rba_pipeline.core.windows import Window
from rba_pipeline.partitions import window_of
from rba_pipeline.resources.embedding_stream import Traffic

PROGRESS_EVERY_S = 10.0

Recipe = TypeVar("Recipe", bound=Callable[..., Any])


def one_message(recipe: Recipe) -> Recipe:
    """Let a recipe that fails on purpose end its step with that one message.

    Dagster's own retries are allowed only where another try can help.
    """

    @functools.wraps(recipe)
    def reported(*args: Any, **kwargs: Any) -> Any:
        try:
            return recipe(*args, **kwargs)
        except RbaError as error:
            passing = isinstance(
                error,
                ServiceOverloaded | ServiceUnavailable | DatabaseUnavailable | DatabaseBusy,
            )
            # It says what to do; the traces of its causes would only bury it.
            raise dg.Failure(f"{type(error).__name__}: {error}", allow_retries=passing) from None

    return cast(Recipe, reported)


def window_in(context: dg.AssetExecutionContext) -> Window:
    """Return the dates of the partition that is materialised."""
    partitions = cast(dg.TimeWindowPartitionsDefinition, context.assets_def.partitions_def)
    return window_of(partitions, context.partition_key)


def columns(schema: pa.Schema) -> dict[str, Any]:
    """Return the metadata that shows a Parquet schema's columns in the UI."""
    shown = [
        dg.TableColumn(field.name, type=str(field.type), description=_meaning(field))
        for field in schema
    ]
    return {"dagster/column_schema": dg.TableSchema(columns=shown)}


def _meaning(field: pa.Field) -> str | None:
    meaning = (field.metadata or {}).get(b"meaning")
    return meaning.decode() if meaning else None


def counted(reasons: Iterable[str]) -> dict[str, int]:
    """Return how often each reason occurs, the commonest first."""
    return dict(Counter(reasons).most_common())


def rates(traffic: Traffic) -> dict[str, float]:
    """Return chunks and tokens per second; 0 when nothing was sent."""
    if not traffic.seconds:
        return {"chunks_per_second": 0.0, "tokens_per_second": 0.0}
    return {
        "chunks_per_second": round(traffic.texts / traffic.seconds, 2),
        "tokens_per_second": round(traffic.tokens / traffic.seconds, 1),
    }


def progress_of(context: dg.AssetExecutionContext, total: int) -> Callable[[Traffic], None]:
    """Return a callback that logs texts done, left and the time left, at most every 10 s."""
    said_at = time.monotonic()

    def say(traffic: Traffic) -> None:
        nonlocal said_at
        if time.monotonic() - said_at < PROGRESS_EVERY_S:
            return
        said_at = time.monotonic()
        rate = traffic.texts / traffic.seconds if traffic.seconds else 0.0
        left_s = (total - traffic.texts) / rate if rate else float("nan")
        context.log.info(
            f"{traffic.texts} of {total} texts embedded, {rate:.1f} per second, {left_s:.0f} s left"
        )

    return say
