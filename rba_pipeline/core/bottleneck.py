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
        most_texts, most_requests: The bounds of the two: where the run stayed below one that it
            was free to reach, raising it would change nothing.
        server_batch_size: Texts of one forward pass of the service.
        requests, refusals: Of the whole run.
    """

    batch_size: int
    parallel_batches: int
    most_texts: int
    most_requests: int
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
    Level.OTHER_RUNS: "The wait for other runs",
}
_MORE_RUNS = "concurrency > runs > max_concurrent_runs"
_MORE_EMBEDDING = "concurrency > pools > default_limit"
# What is to be done about a wait for other runs, by the asset that waited.
_OF_OTHER_RUNS = {
    "documents": (
        "Most of it was waiting while another run read the source, once for all partitions: "
        "nothing is to be made faster. Let the first run of a new corpus finish before others are "
        "launched, or let fewer run at once"
    ),
    "embeddings": (
        "Most of it was waiting while other runs wrote what became of their texts: let fewer run "
        "at once"
    ),
    "vectors": (
        "Most of it was waiting while other runs published into the same corpus: let fewer run at "
        "once"
    ),
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
            return _of_record(*_longest(level, steps), leaning)
        case Level.DATABASE:
            return _OF_DATABASE
        case Level.OTHER_RUNS:
            asset, _ = _longest(level, steps)
            return f"{_OF_OTHER_RUNS[asset]}: {_MORE_RUNS} in dagster.yaml"
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
    return (
        f"{what}: more parallel_batches would not help. Run more partitions at once: raise "
        f"{_place_for_more(asset)} in dagster.yaml"
    )


def _place_for_more(asset: str) -> str:
    return _MORE_EMBEDDING if asset == "embeddings" else _MORE_RUNS


def _of_http(leaning: Leaning) -> str:
    why = "The requests' way took longer than their computing"
    if larger := _larger_requests(leaning):
        return f"{why}: let fewer requests carry the texts: {larger}"
    if more := _more_requests(leaning):
        return f"{why}: let more of them be on their way at once: {more}"
    return (
        f"{why}, and more or larger ones would not help: bring client and service closer together"
    )


def _of_model(steps: Sequence[StepTimes], leaning: Leaning) -> str:
    spent = {
        stage: sum(step.seconds.get(stage, 0.0) for step in steps)
        for stage in (Stage.QUEUEING, Stage.COMPUTING, Stage.HELD)
    }
    if spent[Stage.HELD] > spent[Stage.QUEUEING] + spent[Stage.COMPUTING]:
        return (
            f"The service held the run back ({leaning.refusals} of {leaning.requests} requests "
            f"refused): {_less_at_once(leaning)}give it more room with EMBEDDING_MAX_QUEUE_TOKENS, "
            f"or let fewer runs embed at once: {_MORE_EMBEDDING} in dagster.yaml"
        )
    in_flight = leaning.batch_size * leaning.parallel_batches
    idle = spent[Stage.QUEUEING] < _WAITS * spent[Stage.COMPUTING]
    if idle and in_flight < leaning.server_batch_size and (more := _more_requests(leaning)):
        return f"It computed, and nothing waited for it: first give it more at once, {more}"
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


def _of_record(asset: str, stage: Stage, leaning: Leaning | None) -> str:
    nearer = "let RBA_STORE name a faster or nearer place"
    if stage is not Stage.WRITING:
        return (
            f"Most of it was {ABOUT[stage].label} in '{asset}': {nearer}, or read more partitions "
            f"at once: raise {_place_for_more(asset)} in dagster.yaml"
        )
    larger = _larger_requests(leaning) if leaning else ""
    fewer_parts = f"; {larger} keeps the same vectors in fewer parts" if larger else ""
    return f"{nearer[0].upper()}{nearer[1:]}{fewer_parts}"


_OF_DATABASE = (
    "Let RBA_DATABASE_URL name a faster or nearer database; before many partitions are published, "
    "`rba-pipeline spaces index --drop` spares it an index entry for each vector"
)


def _larger_requests(leaning: Leaning) -> str:
    """Return the setting that lets requests hold more texts; empty if that would not help."""
    size = min(2 * leaning.batch_size, leaning.server_batch_size)
    helps = leaning.most_texts <= leaning.batch_size < size
    return f"batch_size={size}{_now(leaning)}" if helps else ""


def _more_requests(leaning: Leaning) -> str:
    """Return the setting that lets more requests be open; empty if that would not help."""
    more = min(2 * leaning.parallel_batches, RANGES["parallel_batches"][1])
    helps = leaning.most_requests <= leaning.parallel_batches < more
    return f"parallel_batches={more}{_now(leaning)}" if helps else ""


def _less_at_once(leaning: Leaning) -> str:
    """Return the setting that lets less be under way; empty if the run finds it itself."""
    if leaning.adaptive or max(leaning.parallel_batches, leaning.batch_size) == 1:
        return ""
    if leaning.parallel_batches > 1:
        return (
            f"send less at once, parallel_batches={leaning.parallel_batches // 2}{_now(leaning)}, "
        )
    return f"send less at once, batch_size={leaning.batch_size // 2}{_now(leaning)}, "


def _now(leaning: Leaning) -> str:
    return f" (now {leaning.batch_size} texts × {leaning.parallel_batches} requests)"
