"""What became of a run: asked of Dagster's instance, whoever launched it."""

from typing import Any

import dagster as dg
from dagster import DagsterEvent, DagsterEventType, DagsterRun
from dagster._core.events import JobFailureData

_FAILURES = {
    DagsterEventType.STEP_FAILURE,
    DagsterEventType.RUN_FAILURE,
    # Before Dagster marks a run as failed whose process has died, it says here what became of it.
    DagsterEventType.ENGINE_EVENT,
}
# All that it says then of the failure itself.
_FROM_OUTSIDE = "marked as failed from outside"


def failure_of(instance: dg.DagsterInstance, run: DagsterRun) -> str:
    """Return the one message of a run that did not succeed: the step, and what it died of."""
    told = "it was cancelled" if run.status is dg.DagsterRunStatus.CANCELED else ""
    noticed = ""
    for entry in instance.all_logs(run.run_id, of_type=_FAILURES):
        event = entry.dagster_event
        if event is not None and event.is_step_failure:
            return f"{event.step_key}: {_step_failure(event)}"
        if event is not None and event.event_type is DagsterEventType.RUN_FAILURE:
            told = _run_failure(event)
            if _FROM_OUTSIDE in told:
                told = noticed or told
        elif event is not None:
            noticed = event.message or ""
    return told or "the run failed before its first step; see the run in Dagster's UI"


def metadata_of(instance: dg.DagsterInstance, run: DagsterRun) -> dict[str, dict[str, Any]]:
    """Return the metadata of the assets that a run materialised, by asset and name."""
    found: dict[str, dict[str, Any]] = {}
    for entry in instance.all_logs(run.run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION):
        event = entry.dagster_event
        if event is not None and event.asset_key is not None:
            metadata = event.step_materialization_data.materialization.metadata
            found[event.asset_key.to_user_string()] = {
                name: value.value for name, value in metadata.items()
            }
    return found


def _step_failure(event: DagsterEvent) -> str:
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description
    if data.error:
        return (data.error.cause or data.error).message.strip()
    return event.message or ""


def _run_failure(event: DagsterEvent) -> str:
    # Whoever marks a run as failed from outside gives only a sentence.
    data = event.event_specific_data
    error = data.error if isinstance(data, JobFailureData) else None
    return (error.cause or error).message.strip() if error else (event.message or "")
