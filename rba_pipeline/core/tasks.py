"""What a run sends: requests with its texts, and probes without."""

from dataclasses import dataclass

from rba_pipeline.core.embeddings import CANARY
from rba_pipeline.core.recovery import Batch


@dataclass(frozen=True, slots=True)
class Request:
    """One request on its way.

    Attributes:
        change: The pace's when it was sent.
        in_flight: Tokens in flight at its address, its own among them.
        answers: Signs of life that the run had seen when it was sent.
        is_alone: Nothing else was in flight at its address, or joins it there.
        is_usual: It is one as the pace asks for: fresh, or sent again as large as that.
    """

    batch: Batch
    address: str
    sent_at_s: float
    change: int
    in_flight: int
    answers: int
    is_alone: bool
    is_usual: bool


@dataclass(frozen=True, slots=True)
class Probe:
    """A request for the canary: is the address well, and what it was? Or for a control: does it
    embed texts like those that are suspected?
    """

    address: str
    text: str = CANARY

    @property
    def is_control(self) -> bool:
        """Return whether it is for a control, whose vector nobody knows."""
        return self.text != CANARY
