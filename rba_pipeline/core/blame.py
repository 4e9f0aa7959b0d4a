"""Which texts are at fault that requests failed, and which requests failed by chance.

No text is put aside before the service has shown that it embeds texts at all: another one of the
run, answered since; or, where there is none, a control: a harmless text as long as the suspect. A
probe of a few words would not do: a service may be well at that, and fail at everything longer.
Nor is one control enough for any number of texts: a service may be well at harmless ones only.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from rba_pipeline.core import recovery
from rba_pipeline.core.embeddings import CANARY, Rejection, Text, as_long_as
from rba_pipeline.core.errors import (
    EmbeddingError,
    ModelFailed,
    RequestRejected,
    RequestTimedOut,
    RequestTooLarge,
    ServiceOverloaded,
    ServiceUnavailable,
    TextRejected,
)
from rba_pipeline.core.recovery import Batch, Suspect

# A suspect waits for as many answers, while there is other work: they show whether requests fail by
# chance.
ANSWERS_TO_JUDGE = 16
# As many texts are blamed beyond the last control; for more, and more than succeeded, another one
# has to be embedded. And beyond so many, controls do not show any more that it is the texts.
MOST_SUSPECTS, MOST_BY_CONTROLS = 8, 64
# As many controls in a row fail for another reason than that the service is wrong by chance only.
CONTROLS_TO_GIVE_UP = 3
_SHORTEST = Text("", CANARY, 1)


@dataclass(slots=True)
class Blame:
    """What one run has found out so far.

    Attributes:
        doubted: Hashes of texts that the service failed at in earlier runs: that it fails at them
            again says nothing of itself.
        rejections: The texts at fault.
        answers: Signs of life that the run has seen: answers, and probes that went well.
        proofs: Those of them that were answers to real texts: of the run, or controls.
    """

    doubted: Collection[str] = ()
    rejections: list[Rejection] = field(default_factory=list)
    answers: int = 0
    proofs: int = 0
    _embedded: int = 0
    _blamed: set[str] = field(default_factory=set)
    _vouched_for: int = 0
    _longest: Text | None = None
    _by_chance: int = 0
    _controls_failed: Counter[str] = field(default_factory=Counter)
    _suspects: deque[Suspect] = field(default_factory=deque)

    @property
    def chance(self) -> float:
        """Return the share of requests that failed though their texts turned out to be good.

        Where any did, one more is counted: of few, the share may be larger than was seen.
        """
        if not self._by_chance:
            return 0.0
        return (self._by_chance + 1) / (self.answers + self._by_chance + 1)

    @property
    def is_open(self) -> bool:
        """Return whether a text is suspected."""
        return bool(self._suspects)

    @property
    def is_doubtful(self) -> bool:
        """Return whether a text is suspected, and the run has not seen any embedded; or not since
        more were suspected than one answer explains."""
        return self.is_open and (not self.proofs or self._is_crowded)

    @property
    def has_given_up(self) -> bool:
        """Return whether controls were refused everywhere, or as many failed in a row as no chance
        explains."""
        return max(self._controls_failed.values(), default=0) >= CONTROLS_TO_GIVE_UP

    def answered(self, batch: Batch) -> None:
        """Take note of texts that were embedded: what failed before, failed by chance."""
        self._embedded += len(batch.texts)
        known = (self._longest,) if self._longest else ()
        self._longest = max((*known, *batch.texts), key=_tokens)
        if recovery.is_innocent(batch):
            self._by_chance += batch.failures
        self.answers += 1
        self.proofs += 1
        self._controls_failed.clear()

    def probed(self, *, is_control: bool) -> None:
        """Take note of a probe that went well."""
        self.answers += 1
        if is_control:
            self._vouched_for = len(self._blamed)
            self.proofs += 1
            self._controls_failed.clear()

    def control(self, failed: Iterable[Text] = ()) -> str:
        """Return a text whose answer shows that the service embeds texts like those suspected.

        It is as long as the longest of them, or of those that ``failed`` beside them. But if texts
        were embedded, it is no longer than these: to fail at what is longer may be what a text is
        put aside for, as long as few are.
        """
        suspected = (suspect.text for suspect in self._suspects)
        longest = max((*suspected, *failed), key=_tokens, default=self._longest or _SHORTEST)
        if self._are_more_than(MOST_SUSPECTS):
            return as_long_as(longest)
        return as_long_as(min(longest, self._longest or longest, key=_tokens))

    def control_failed(self, error: EmbeddingError, address: str) -> EmbeddingError | None:
        """Take note of a control that was not embedded; return what is wrong if that is enough.

        To be told of a refusal only where no other address is left that has not refused it.
        """
        refused = isinstance(error, RequestTooLarge | TextRejected)
        if isinstance(error, ServiceOverloaded):
            return None
        if not (refused or isinstance(error, ServiceUnavailable | ModelFailed)):
            return error
        unproven = [
            each
            for each in self._suspects
            if each.proof > self.proofs or (self._is_crowded and not each.is_told)
        ]
        # Addresses that go away together are one outage.
        is_away = isinstance(error, ServiceUnavailable) and not isinstance(error, RequestTimedOut)
        where = address if is_away else "anywhere"
        self._controls_failed[where] += CONTROLS_TO_GIVE_UP if refused else 1
        if not (unproven and self.has_given_up):
            return None
        if any(each.text.text_hash not in self.doubted for each in unproven):
            kind = RequestRejected if refused else ModelFailed
            return kind(f"{error}. {self._acquitted(len(unproven), ' and at a harmless one')}")
        # They stay where they are, without another charge.
        self.rejections += [Rejection(each.text.text_hash, each.reason, 0) for each in unproven]
        self._suspects = deque(each for each in self._suspects if each not in unproven)
        return None

    def suspect(self, suspect: Suspect) -> ModelFailed | None:
        """Take note of a suspect; return what is wrong if it cannot be the texts any more."""
        self._suspects.append(suspect)
        if suspect.is_told:
            return None
        if suspect.text.text_hash not in self.doubted:
            self._blamed.add(suspect.text.text_hash)
        if not self._are_more_than(MOST_BY_CONTROLS):
            return None
        todo = "If nothing is wrong there, add the documents of this partition a few at a time"
        return ModelFailed(f"{self._acquitted(len(self._blamed))}. {todo}")

    def judge(self, *, is_last: bool) -> list[Batch]:
        """Reject the suspects for whom there was proof enough since they failed.

        Args:
            is_last: Whether there is no other work whose answers could be waited for.

        Returns:
            What is to be sent once more: others failed by chance meanwhile, so it may have, too.
        """
        again = list[Batch]()
        if self.is_doubtful:
            return again
        needed = recovery.failures_to_convict(self.chance)
        for _ in range(len(self._suspects)):
            suspect = self._suspects.popleft()
            wanted = 0 if is_last or suspect.is_told else ANSWERS_TO_JUDGE
            if suspect.proof + wanted > self.proofs:
                self._suspects.append(suspect)
            elif suspect.reason == "model_failed" and suspect.attempts < needed:
                self._blamed.discard(suspect.text.text_hash)
                again.append(Batch((suspect.text,), failures=suspect.attempts))
            else:
                name = suspect.text.text_hash
                self.rejections.append(Rejection(name, suspect.reason, suspect.attempts))
        return again

    @property
    def _is_crowded(self) -> bool:
        return self._are_more_than(self._vouched_for + MOST_SUSPECTS)

    def _are_more_than(self, most: int) -> bool:
        """Return whether more are blamed that no earlier run doubted, and more than succeeded."""
        return len(self._blamed) > max(most, self._embedded)

    def _acquitted(self, texts: int, also: str = "") -> str:
        """Return why it is not the texts; of many that were blamed, none is any more."""
        if self._are_more_than(MOST_SUSPECTS):
            self.rejections = [
                each for each in self.rejections if each.text_hash not in self._blamed
            ]
        return (
            f"The service failed at {texts} texts that were sent alone{also}, and embedded "
            f"{self._embedded}: it is not the texts. See its log; nothing was put into quarantine "
            "for this"
        )


def _tokens(text: Text) -> int:
    return text.tokens
