"""Where the time of a step goes, and on which level of the pipeline each stage lies."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Level(StrEnum):
    """What may bound a run: the first three are those of the parallel processing guide."""

    CLIENT = "client"
    HTTP = "HTTP"
    MODEL = "model"
    RECORD = "record"
    DATABASE = "database"
    OTHER_RUNS = "other runs"


class Stage(StrEnum):
    """What a step does at a moment; the value names its figure in the metadata."""

    PREPARING = "preparing"
    LISTING = "listing"
    PARSING = "parsing"
    CUTTING = "cutting"
    READING = "reading"
    DECODING = "decoding"
    CHECKING = "checking"
    HTTP = "http"
    WAITING = "waiting"
    QUEUEING = "queueing"
    COMPUTING = "computing"
    HELD = "held"
    WRITING = "writing"
    LOCKING = "locking"
    STAGING = "staging"
    APPLYING = "applying"
    DATABASE = "database"


@dataclass(frozen=True, slots=True)
class About:
    """A stage's level, and its name for people."""

    level: Level
    label: str


ABOUT: Mapping[Stage, About] = MappingProxyType(
    {
        Stage.PREPARING: About(Level.CLIENT, "getting ready"),
        Stage.LISTING: About(Level.CLIENT, "listing files"),
        Stage.PARSING: About(Level.CLIENT, "parsing"),
        Stage.CUTTING: About(Level.CLIENT, "cutting"),
        Stage.DECODING: About(Level.CLIENT, "decoding answers"),
        Stage.HTTP: About(Level.HTTP, "HTTP"),
        # Of a service that does not say what it did meanwhile.
        Stage.WAITING: About(Level.MODEL, "waiting for the service"),
        Stage.QUEUEING: About(Level.MODEL, "queueing in the service"),
        Stage.COMPUTING: About(Level.MODEL, "computing"),
        Stage.HELD: About(Level.MODEL, "held back by the service"),
        Stage.READING: About(Level.RECORD, "reading the record"),
        # It is read back for that.
        Stage.CHECKING: About(Level.RECORD, "checking what was made"),
        Stage.WRITING: About(Level.RECORD, "writing the record"),
        Stage.STAGING: About(Level.DATABASE, "copying in"),
        Stage.APPLYING: About(Level.DATABASE, "applying"),
        Stage.DATABASE: About(Level.DATABASE, "other database work"),
        Stage.LOCKING: About(Level.OTHER_RUNS, "waiting for other runs"),
    }
)

# What each asset's step can do; all of it is in its metadata, so that a plot has no holes.
STAGES_OF: Mapping[str, tuple[Stage, ...]] = MappingProxyType(
    {
        "documents": (
            Stage.PREPARING, Stage.LISTING, Stage.PARSING, Stage.READING, Stage.CHECKING,
            Stage.WRITING, Stage.DATABASE, Stage.LOCKING,
        ),
        "chunks": (
            Stage.PREPARING, Stage.HTTP, Stage.READING, Stage.CUTTING, Stage.CHECKING,
            Stage.WRITING,
        ),
        "embeddings": (
            Stage.PREPARING, Stage.READING, Stage.DECODING, Stage.CHECKING, Stage.HTTP,
            Stage.WAITING, Stage.QUEUEING, Stage.COMPUTING, Stage.HELD, Stage.WRITING,
            Stage.DATABASE, Stage.LOCKING,
        ),
        "vectors": (
            Stage.PREPARING, Stage.READING, Stage.CHECKING, Stage.LOCKING, Stage.STAGING,
            Stage.APPLYING, Stage.DATABASE,
        ),
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class StepTimes:
    """The wall seconds of one asset's step by stage: every moment counts once."""

    asset: str
    seconds: Mapping[Stage, float]

    @property
    def total(self) -> float:
        """Wall seconds of the step, without the start of its process."""
        return sum(self.seconds.values())

    def at(self, level: Level) -> float:
        """Return the seconds on one level."""
        return sum(seconds for stage, seconds in self.seconds.items() if level is level_of(stage))


@dataclass(frozen=True, slots=True)
class RequestSeconds:
    """What answered requests took together: those that are open at once count each.

    Attributes:
        exchanged: From sending to the last byte of the answer.
        waited, computed: Of it, as the service says.
        decoded: What the client took to read the answers.
        told: How many answers said what the service did; only those are counted here.
    """

    exchanged: float = 0.0
    waited: float = 0.0
    computed: float = 0.0
    decoded: float = 0.0
    told: int = 0

    def __add__(self, other: "RequestSeconds") -> "RequestSeconds":
        return RequestSeconds(
            self.exchanged + other.exchanged,
            self.waited + other.waited,
            self.computed + other.computed,
            self.decoded + other.decoded,
            self.told + other.told,
        )

    @property
    def total(self) -> float:
        """Request-seconds in all."""
        return self.exchanged + self.decoded

    def by_stage(self) -> dict[Stage, float]:
        """Return the request-seconds of each stage; their sum is ``total``."""
        # Two clocks: what the service says may be a little more than what passed here.
        service = min(1.0, self.exchanged / ((self.waited + self.computed) or 1.0))
        waited, computed = self.waited * service, self.computed * service
        return {
            Stage.HTTP: max(0.0, self.exchanged - waited - computed),
            Stage.QUEUEING: waited,
            Stage.COMPUTING: computed,
            Stage.DECODING: self.decoded,
        }


def level_of(stage: Stage) -> Level:
    """Return the level that a stage lies on."""
    return ABOUT[stage].level


def divided(seconds: Mapping[Stage, float], requests: RequestSeconds) -> dict[Stage, float]:
    """Return wall ``seconds`` with the waiting divided by what the requests did meanwhile.

    Requests overlap: the seconds that were waited are divided in proportion to the request-seconds,
    and keep their sum. Where no answer said what the service did they stay undivided.
    """
    shares = requests.by_stage()
    whole = sum(shares.values())
    found = dict(seconds)
    if not requests.told or whole <= 0:
        return found
    waiting = found.get(Stage.WAITING, 0.0)
    found[Stage.WAITING] = 0.0
    for stage, share in shares.items():
        found[stage] = found.get(stage, 0.0) + waiting * share / whole
    return found
