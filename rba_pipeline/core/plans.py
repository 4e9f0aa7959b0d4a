"""What runs of some partitions would do right now, and how long that would take."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rba_pipeline.core.run_costs import RunCosts
from rba_pipeline.core.side_by_side import Load, courses
from rba_pipeline.core.standings import Standing, State


@dataclass(frozen=True, slots=True)
class Work:
    """What the run of one partition would do, after those before it in the plan.

    Attributes:
        chunks: That the partition would have.
        embed: Distinct texts to send, and their tokens, prompts included.
        reuse: Distinct texts that have a vector, or get it in an earlier run of the plan.
        held: Distinct texts in quarantine that are not sent again.
        add: Chunks that search would gain.
        delete: Chunks that search would lose, those of changed documents among them.
        cut_s: Seconds that cutting its documents took; 0 if that was not needed.
    """

    chunks: int = 0
    embed: int = 0
    tokens: int = 0
    reuse: int = 0
    held: int = 0
    add: int = 0
    delete: int = 0
    cut_s: float = 0.0


@dataclass(frozen=True, slots=True)
class PartitionPlan:
    """One partition: how it stands, and what a run would do.

    Attributes:
        inputs: Stands for documents, way of cutting and space.
        load: Of a run by itself; ``None`` where the speed of the service is not known.
    """

    standing: Standing
    work: Work
    inputs: str
    load: Load | None

    @property
    def key(self) -> str:
        return self.standing.key

    @property
    def seconds(self) -> float | None:
        """Return the wall time of a run by itself, from launch to end."""
        return self.load.work_s + self.load.stream_s if self.load else None

    @property
    def is_needed(self) -> bool:
        """Return whether a run would change anything: what `backfill --only` goes by as well."""
        return self.standing.state is not State.CURRENT


@dataclass(frozen=True, slots=True)
class Plan:
    """All partitions asked for, in order of their keys, which is the order of their runs.

    Attributes:
        parsed: Files that had to be parsed for it.
        costs: What the predictions were computed from.
    """

    partitions: tuple[PartitionPlan, ...]
    parsed: int
    costs: RunCosts

    @property
    def needed(self) -> list[PartitionPlan]:
        """Return the partitions that a run would change."""
        return [each for each in self.partitions if each.is_needed]

    @property
    def unneeded(self) -> list[PartitionPlan]:
        """Return the partitions that a run would leave as they are."""
        return [each for each in self.partitions if not each.is_needed]


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over some partitions; ``seconds`` is the wall time of their runs together, ``None`` if
    one of them is not known.
    """

    partitions: int
    new: int
    changed: int
    gone: int
    embed: int
    reuse: int
    held: int
    add: int
    delete: int
    tokens: int
    seconds: float | None


def totals(partitions: Iterable[PartitionPlan], costs: RunCosts) -> Totals:
    """Return the sums over ``partitions``, whose runs are launched as ``costs`` says."""
    found = list(partitions)
    stand, work = [each.standing for each in found], [each.work for each in found]
    spans = spans_of(found, costs)
    return Totals(
        partitions=len(found),
        new=sum(each.new for each in stand),
        changed=sum(each.changed for each in stand),
        gone=sum(each.gone for each in stand),
        embed=sum(each.embed for each in work),
        reuse=sum(each.reuse for each in work),
        held=sum(each.held for each in work),
        add=sum(each.add for each in work),
        delete=sum(each.delete for each in work),
        tokens=sum(each.tokens for each in work),
        seconds=None if spans is None else max((end for _, end in spans), default=0.0),
    )


def spans_of(
    partitions: Sequence[PartitionPlan], costs: RunCosts
) -> list[tuple[float, float]] | None:
    """Return when the run of each would be launched and end, in seconds from the first launch;
    ``None`` if one of them is not known.
    """
    loads = [each.load for each in partitions if each.load is not None]
    if len(loads) < len(partitions):
        return None
    return courses(loads, costs.beside, costs.between_s)


def inputs_of(digest: str, chunking_id: str, space: str) -> str:
    """Return 32 hex that stand for documents, way of cutting and space of one partition."""
    return hashlib.sha256(json.dumps([digest, chunking_id, space]).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a plan said of one partition, kept until its run can be held against it.

    Attributes:
        seconds: Wall time of a run by itself.
        seconds_beside: With the other runs of the plan beside it; waiting is a part of it.
    """

    inputs: str
    way: str
    reuse: int
    add: int
    seconds: float
    seconds_beside: float

    def is_of(self, *, inputs: str, way: str, reused: int, added: int) -> bool:
        """Return whether a run began where the plan did.

        A run that came before has embedded or published what was planned to be: then texts are
        reused that were to be embedded, or nothing is added.
        """
        same = (self.inputs, self.way) == (inputs, way)
        return same and reused <= self.reuse and (added > 0) is (self.add > 0)
