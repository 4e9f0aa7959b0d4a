"""How long earlier runs took, and for what: read from Dagster's log of events."""

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster import DagsterEventType, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.storage.tags import PARTITION_NAME_TAG

from rba_pipeline.core.run_costs import PastRun, Way
from rba_pipeline.core.side_by_side import Course
from rba_pipeline.core.stages import Stage

# A run without it is one of the daemon, the web interface or Dagster's own commands.
ONE_PROCESS_TAG = {"rba_pipeline/way": Way.ONE_PROCESS.name}
_ASSETS = {"documents", "chunks", "embeddings", "vectors"}
_TYPES = {
    DagsterEventType.PIPELINE_STARTING,
    DagsterEventType.PIPELINE_START,
    DagsterEventType.PIPELINE_SUCCESS,
    DagsterEventType.STEP_WORKER_STARTING,
    DagsterEventType.STEP_START,
    DagsterEventType.STEP_SUCCESS,
    DagsterEventType.ASSET_MATERIALIZATION,
}
# How long a step waited for other runs.
_WAITED = f"seconds_{Stage.LOCKING}"
_FIGURES = {
    *((asset, _WAITED) for asset in ("documents", "embeddings", "vectors")),
    ("documents", "parsed_files"),
    ("chunks", "unchanged"),
    ("embeddings", "embedding_space"),
    ("embeddings", "stream_seconds"),
    ("embeddings", "tokens"),
    ("vectors", "inserted"),
}
# The latest are enough, and each costs a query.
_MOST_RUNS = 40


def past_runs(instance: dg.DagsterInstance) -> list[PastRun]:
    """Return the latest runs that took a partition all the way, the latest first."""
    runs = instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.SUCCESS]), limit=_MOST_RUNS)
    found = (_past_run(instance, run) for run in runs)
    return [run for run in found if run is not None]


def launched_at(instance: dg.DagsterInstance, run: DagsterRun) -> float | None:
    """Return when ``run`` was launched, as Unix seconds; ``None`` if it is not of all assets."""
    events = _Events(instance, run.run_id)
    return events.launched if events.began.keys() >= _ASSETS else None


def ran_beside(instance: dg.DagsterInstance, run: DagsterRun, launched: float) -> bool:
    """Return whether runs of other partitions were under way since ``run`` was ``launched``."""
    since = RunsFilter(updated_after=datetime.fromtimestamp(launched, UTC))
    open_runs = RunsFilter(statuses=[DagsterRunStatus.STARTED])
    records = [
        *instance.get_run_records(since, limit=_MOST_RUNS),
        *instance.get_run_records(open_runs, limit=_MOST_RUNS),
    ]
    return any(
        record.dagster_run.run_id != run.run_id
        and PARTITION_NAME_TAG in record.dagster_run.tags
        and record.start_time is not None
        and (record.end_time or time.time()) > launched
        for record in records
    )


def way_of(run: DagsterRun) -> Way:
    """Return how ``run`` was launched."""
    is_one = ONE_PROCESS_TAG.items() <= run.tags.items()
    return Way.ONE_PROCESS if is_one else Way.PROCESSES


class _Events:
    """The times of one run, as Unix seconds, and what its assets said."""

    def __init__(self, instance: dg.DagsterInstance, run_id: str) -> None:
        self.launched = self.ended = 0.0
        self.let_in: dict[str, float] = {}
        self.began: dict[str, float] = {}
        self.done: dict[str, float] = {}
        self.said: dict[str, Mapping[str, Any]] = {}
        for event, at in _logged(instance, run_id):
            match event.event_type:
                case DagsterEventType.PIPELINE_STARTING | DagsterEventType.PIPELINE_START:
                    self.launched = self.launched or at
                case DagsterEventType.PIPELINE_SUCCESS:
                    self.ended = at
                case DagsterEventType.STEP_WORKER_STARTING:
                    self.let_in[str(event.step_key)] = at
                case DagsterEventType.STEP_START:
                    self.began[str(event.step_key)] = at
                case DagsterEventType.STEP_SUCCESS:
                    self.done[str(event.step_key)] = at
                case _:
                    made = event.step_materialization_data.materialization
                    values = {name: each.value for name, each in made.metadata.items()}
                    self.said[made.asset_key.to_user_string()] = values

    def step_s(self, name: str) -> float:
        """Return how long a step worked."""
        return self.done[name] - self.began[name] - self._waited_s(name)

    def course(self, stream_s: float) -> Course:
        """Return when the run worked, waited for a place or for other runs, and streamed."""
        # The source is read and the corpus is published into at the beginning of a step; outcomes
        # are written when all texts are embedded.
        source, corpus = (
            (self.began[name], self.began[name] + self._waited_s(name))
            for name in ("documents", "vectors")
        )
        done = self.done["embeddings"]
        embedded = done - self._waited_s("embeddings")
        began = min(self.began["embeddings"], embedded)
        # The step's process is started when it has a place. All in one process do not wait.
        asked, let_in = self.done["chunks"], self.let_in.get("embeddings", self.done["chunks"])
        return Course(
            run=(self.launched, self.ended),
            waiting=(source, (asked, max(asked, let_in)), (embedded, done), corpus),
            streaming=(max(began, embedded - stream_s), embedded),
        )

    def _waited_s(self, name: str) -> float:
        return float(self.said[name].get(_WAITED, 0.0))


def _logged(instance: dg.DagsterInstance, run_id: str) -> Iterator[tuple[dg.DagsterEvent, float]]:
    for record in instance.get_records_for_run(run_id, of_type=_TYPES).records:
        if (event := record.event_log_entry.dagster_event) is not None:
            yield event, record.event_log_entry.timestamp


def _past_run(instance: dg.DagsterInstance, run: DagsterRun) -> PastRun | None:
    events = _Events(instance, run.run_id)
    if not (events.ended and events.said.keys() >= _ASSETS and events.done.keys() >= _ASSETS):
        return None
    said = events.said
    # Of another version, which named its figures otherwise.
    if not {(name, key) for name, told in said.items() for key in told} >= _FIGURES:
        return None
    # Whoever plans has parsed the files, and knows what there is to cut.
    parsing_s = events.step_s("documents") if said["documents"]["parsed_files"] else 0.0
    cutting_s = 0.0 if said["chunks"]["unchanged"] else events.step_s("chunks")
    return PastRun(
        way=way_of(run),
        space=str(said["embeddings"]["embedding_space"]),
        course=events.course(float(said["embeddings"]["stream_seconds"])),
        cut_s=parsing_s + cutting_s,
        tokens=int(said["embeddings"]["tokens"]),
        publish_s=events.step_s("vectors"),
        added=int(said["vectors"]["inserted"]),
    )
