"""How many texts a request holds while many are left, and while few are."""

from dataclasses import dataclass
from itertools import pairwise

from rba_pipeline.core.errors import BadSetting

# Those of the parallel processing guide that this pipeline takes over from.
USUAL_STEPS = "0:8,100:16,1000:32"


@dataclass(frozen=True, slots=True)
class BacklogSteps:
    """Batch sizes by backlog: the size of the last step whose threshold the backlog exceeds.

    Args:
        sizes: (texts that are left, texts per request), thresholds rising from 0.
    """

    sizes: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        thresholds = [threshold for threshold, _ in self.sizes]
        rising = all(low < high for low, high in pairwise(thresholds))
        smallest = min((size for _, size in self.sizes), default=0)
        if smallest < 1 or thresholds[0] != 0 or not rising:
            raise BadSetting(
                f"backlog_batches {self.sizes}: the numbers of texts left have to begin at 0 and "
                "rise, the texts per request to be 1 or more (EMBEDDING_BACKLOG_BATCHES)"
            )

    @classmethod
    def read(cls, text: str) -> "BacklogSteps":
        """Return the steps that ``0:8,100:16,1000:32`` stands for.

        Raises:
            BadSetting: It cannot be read, or thresholds do not rise from 0.
        """
        try:
            pairs = [part.split(":") for part in text.split(",")]
            return cls(tuple((int(threshold), int(size)) for threshold, size in pairs))
        except ValueError as error:
            if isinstance(error, BadSetting):
                raise
            raise BadSetting(
                f"backlog_batches={text!r} is not a list of texts left:texts per request, such as "
                f"{USUAL_STEPS} (EMBEDDING_BACKLOG_BATCHES)"
            ) from None

    def size(self, backlog: int) -> int:
        """Return the texts per request while ``backlog`` texts are left to send."""
        return [size for threshold, size in self.sizes if backlog > threshold or not threshold][-1]

    def is_largest(self, size: int) -> bool:
        """Return whether no larger backlog asks for more."""
        return size >= self.sizes[-1][1]
