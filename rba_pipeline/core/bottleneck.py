"""Which level bounds a run, and what to change there: the guide's "find bottleneck"."""

from collections.abc import Sequence
from dataclasses import dataclass

from rba_pipeline.core.presets import RANGES
from rba_pipeline.core.stages import ABOUT, Level, Stage, StepTimes, level_of

# With less than this beside the computing, nothing waits for the model: it could take more.
_WAITS = 0.1


@dataclass(frozen=True, slots=True)
class Leaning:
    """How a run leaned on the service.

    Attributes:
        batch_size, parallel_batches: Texts per request and requests in flight, for most of the
            time.
        server_batch_size: Texts of one forward pass of the service.
        requests, refusals: Of the whole run.
    """

    batch_size: int
    parallel_batches: int
    server_batch_size: int
    device: str
    requests: int
    refusals: int
    adaptive: bool


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """The level that most of a run's time went to.

    Attributes:
        share: Of all ``seconds``, 0 to 1.
        remedy: A sentence: what to change, and to which value.
    """

    level: Level
    share: float
    seconds: float
    remedy: str

    @property
    def sentence(self) -> str:
        """All of it in words."""
        where = f"{self.share:.0%} of {self.seconds:.1f} s"
        return f"{_NAMES[self.level]} bounds this: {where}. {self.remedy}"


_NAMES = {
    Level.CLIENT: "The client (level 1)",
    Level.HTTP: "HTTP (level 2)",
    Level.MODEL: "The model (level 3)",
    Level.RECORD: "The record",
    Level.DATABASE: "The database",
}


def bottleneck(steps: Sequence[StepTimes], leaning: Leaning | None) -> Bottleneck | None:
    """Return what bounds these steps; ``None`` if they took no time.

    Of two levels with the same time the one that is closer to the client wins: it is the easier one
    to change.

    Args:
        leaning: ``None`` if no text was sent.
    """
    seconds = sum(step.total for step in steps)
    if seconds <= 0:
        return None
    level = max(Level, key=lambda each: sum(step.at(each) for step in steps))
    spent = sum(step.at(level) for step in steps)
    return Bottleneck(level, spent / seconds, seconds, _remedy(level, steps, leaning))


def _remedy(level: Level, steps: Sequence[StepTimes], leaning: Leaning | None) -> str:
    match level:
        case Level.CLIENT:
            return _of_client(*_longest(level, steps))
        case Level.RECORD:
            return _of_record(leaning)
        case Level.DATABASE:
            return _of_database(_longest(level, steps)[1])
    if leaning is None:
        return "Nothing was embedded: the time went into asking the service what it is."
    return _of_http(leaning) if level is Level.HTTP else _of_model(steps, leaning)


def _longest(level: Level, steps: Sequence[StepTimes]) -> tuple[str, Stage]:
    """Return asset and stage with the most time on ``level``."""
    found = [
        (seconds, step.asset, stage)
        for step in steps
        for stage, seconds in step.seconds.items()
        if level_of(stage) is level
    ]
    _, asset, stage = max(found, key=lambda each: each[0])
    return asset, stage


def _of_client(asset: str, stage: Stage) -> str:
    what = f"Most of it was {ABOUT[stage].label} in '{asset}', with the service idle"
    if asset == "embeddings":
        where = "concurrency > pools > default_limit"
    else:
        where = "concurrency > runs > max_concurrent_runs"
    return (
        f"{what}: more parallel_batches would not help. Run more partitions at once: raise {where} "
        "in dagster.yaml"
    )


def _of_http(leaning: Leaning) -> str:
    why = "The requests' way took longer than their computing"
    if not leaning.adaptive and leaning.batch_size < leaning.server_batch_size:
        size = min(2 * leaning.batch_size, leaning.server_batch_size)
        return f"{why}: let fewer requests carry the texts: batch_size={size}{_now(leaning)}"
    if leaning.parallel_batches < RANGES["parallel_batches"][1]:
        return f"{why}: let more of them be on their way at once: {_more_requests(leaning)}"
    return f"{why}, and no more of them may be open: bring client and service closer together"


def _of_model(steps: Sequence[StepTimes], leaning: Leaning) -> str:
    spent = {
        stage: sum(step.seconds.get(stage, 0.0) for step in steps)
        for stage in (Stage.QUEUEING, Stage.COMPUTING, Stage.HELD)
    }
    if spent[Stage.HELD] > spent[Stage.QUEUEING] + spent[Stage.COMPUTING]:
        return (
            f"The service held the run back ({leaning.refusals} of {leaning.requests} requests "
            f"refused): send less at once, parallel_batches={max(1, leaning.parallel_batches // 2)}"
            f"{_now(leaning)}, or give it more room with EMBEDDING_MAX_QUEUE_TOKENS"
        )
    in_flight = leaning.batch_size * leaning.parallel_batches
    idle = spent[Stage.QUEUEING] < _WAITS * spent[Stage.COMPUTING]
    if idle and in_flight < leaning.server_batch_size:
        return (
            "It computed, and nothing waited for it: first give it more at once, "
            f"{_more_requests(leaning)}"
        )
    faster = (
        "EMBEDDING_RUNTIME=openvino with EMBEDDING_PRECISION=bf16, or int8 (another space: all is "
        "embedded anew), or a GPU"
        if leaning.device == "cpu"
        else "EMBEDDING_PRECISION=bf16, or a larger EMBEDDING_SERVER_BATCH_SIZE"
    )
    return (
        "More requests would only wait longer. Make the service faster where it is not yet: "
        f"{faster}; or let a second one share the work: EMBEDDING_API_URL takes several addresses"
    )


def _of_record(leaning: Leaning | None) -> str:
    nearer = "Let RBA_STORE name a faster or nearer place"
    if leaning is None:
        return nearer
    size = min(2 * leaning.batch_size, RANGES["batch_size"][1])
    return f"{nearer}; batch_size={size}{_now(leaning)} keeps the same vectors in fewer parts"


def _of_database(stage: Stage) -> str:
    if stage is Stage.LOCKING:
        return (
            "Most of it was waiting while other runs published into the same corpus: let fewer "
            "run at once, concurrency > runs > max_concurrent_runs in dagster.yaml"
        )
    return (
        "Let RBA_DATABASE_URL name a faster or nearer database; before many partitions are "
        "published, `rba-pipeline spaces index --drop` spares it an index entry for each vector"
    )


def _more_requests(leaning: Leaning) -> str:
    more = min(2 * leaning.parallel_batches, RANGES["parallel_batches"][1])
    return f"parallel_batches={more}{_now(leaning)}"


def _now(leaning: Leaning) -> str:
    return f" (now {leaning.batch_size} texts × {leaning.parallel_batches} requests)"
