"""How far off a plan was, told by the run that it was about."""

import time

import dagster as dg

from rba_pipeline.core.windows import Window
from rba_pipeline.resources.predictions import Predictions
from rba_pipeline.resources.record_store import RecordStore
from rba_pipeline.resources.run_history import launched_at, ran_beside, way_of


def prediction_error(
    context: dg.AssetExecutionContext,
    records: RecordStore,
    window: Window,
    *,
    inputs: str,
    reused: int,
    added: int,
) -> dict[str, float]:
    """Return predicted and real minutes, and the error relative to the real ones.

    Nothing, where no plan was about this run: it is not of all assets, was launched in another
    way, or began from something else.

    Args:
        inputs: As ``inputs_of`` returns it.
        reused, added: Texts that had a vector, and chunks that search gained.
    """
    prediction = Predictions(records.store, records.corpus).of(window)
    way, launched = way_of(context.run), launched_at(context.instance, context.run)
    if prediction is None or launched is None:
        return {}
    if not prediction.is_of(inputs=inputs, way=way.name, reused=reused, added=added):
        return {}
    seconds = time.time() - launched
    is_beside = ran_beside(context.instance, context.run, launched)
    predicted = prediction.seconds_beside if is_beside else prediction.seconds
    return {
        "predicted_minutes": predicted / 60,
        "real_minutes": seconds / 60,
        "prediction_error": predicted / seconds - 1,
    }
