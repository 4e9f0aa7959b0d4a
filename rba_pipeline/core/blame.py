"""Which texts are at fault that requests failed, and which requests failed by chance."""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

from rba_pipeline.core import recovery
from rba_pipeline.core.embeddings import PASSING_REASONS, Rejection, Text
from rba_pipeline.core.errors import ModelFailed
from rba_pipeline.core.recovery import Batch, Suspect

# A suspect waits for as many answers, while there is other work: they show whether requests fail by
# chance.
ANSWERS_TO_JUDGE = 16
# More suspects than texts that succeeded, and more than this: it is not the texts.
MOST_SUSPECTS = 8


@dataclass(slots=True)
class Blame:
    """What one run has found out so far.

    Attributes:
        doubted: Hashes of texts that the service failed at in earlier runs: that it fails at them
            again says nothing of itself.
        rejections: The texts at fault.
        answers: Signs of life that the run has seen: answers, and probes that went well.
    """

    doubted: Collection[str] = ()
    rejections: list[Rejection] = field(default_factory=list)
    answers: int = 0
    _embedded: int = 0
    _by_chance: int = 0
    _suspects: deque[Suspect] = field(default_factory=deque)

    @property
    def chance(self) -> float:
        """Return the share of requests that failed though their texts turned out to be good."""
        return self._by_chance / max(self.answers + self._by_chance, 1)

    @property
    def is_open(self) -> bool:
        """Return whether a text is suspected."""
        return bool(self._suspects)

    def answered(self, batch: Batch) -> None:
        """Take note of texts that were embedded: what failed before, failed by chance."""
        self.answers += 1
        self._embedded += len(batch.texts)
        if recovery.is_innocent(batch):
            self._by_chance += batch.failures

    def suspect(self, suspect: Suspect) -> ModelFailed | None:
        """Take note of a suspect; return what is wrong if it cannot be the texts any more."""
        self._suspects.append(suspect)
        blamed = [each.text.text_hash for each in self._suspects]
        blamed += [each.text_hash for each in self.rejections if each.reason in PASSING_REASONS]
        new = sum(name not in self.doubted for name in blamed)
        if new <= max(MOST_SUSPECTS, self._embedded):
            return None
        return ModelFailed(
            f"the service failed at {len(blamed)} texts that were sent alone, and embedded "
            f"{self._embedded}: it is not the texts. See its log; nothing was put into quarantine "
            "for this"
        )

    def reject(self, text: Text, reason: str, attempts: int = 1) -> None:
        """Take note that a text is at fault."""
        self.rejections.append(Rejection(text.text_hash, reason, attempts))

    def judge(self, *, is_last: bool) -> list[Batch]:
        """Reject the suspects for whom there were signs of life enough since they failed.

        Args:
            is_last: Whether there is no other work whose answers could be waited for.

        Returns:
            What is to be sent once more: others failed by chance meanwhile, so it may have, too.
        """
        again = list[Batch]()
        wanted = 0 if is_last else ANSWERS_TO_JUDGE
        needed = recovery.failures_to_convict(self.chance)
        for _ in range(len(self._suspects)):
            suspect = self._suspects.popleft()
            if suspect.proof + wanted > self.answers:
                self._suspects.append(suspect)
            elif suspect.reason == "model_failed" and suspect.attempts < needed:
                again.append(Batch((suspect.text,), failures=suspect.attempts))
            else:
                self.reject(suspect.text, suspect.reason, suspect.attempts)
        return again
