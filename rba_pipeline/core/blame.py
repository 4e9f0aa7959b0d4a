"""Which texts are at fault that requests failed, and which requests failed by chance.

No text is put aside before the service has shown that it embeds texts at all: another one of the
run, answered since; or, where there is none, a control: a harmless text as long as the suspect. A
probe of a few words would not do: a service may be well at that, and fail at everything longer.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from rba_pipeline.core import recovery
from rba_pipeline.core.embeddings import CANARY, PASSING_REASONS, Rejection, Text, as_long_as
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
# More suspects than texts that succeeded, and more than this: it is not the texts.
MOST_SUSPECTS = 8
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
    _longest: Text | None = None
    _by_chance: int = 0
    _controls_failed: Counter[str] = field(default_factory=Counter)
    _suspects: deque[Suspect] = field(default_factory=deque)

    @property
    def chance(self) -> float:
        """Return the share of requests that failed though their texts turned out to be good."""
        return self._by_chance / max(self.answers + self._by_chance, 1)

    @property
    def is_open(self) -> bool:
        """Return whether a text is suspected."""
        return bool(self._suspects)

    @property
    def is_doubtful(self) -> bool:
        """Return whether a text is suspected, and the run has not seen any embedded."""
        return not self.proofs and self.is_open

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
            self.proofs += 1
            self._controls_failed.clear()

    def control(self, failed: Iterable[Text] = ()) -> str:
        """Return a text whose answer shows that the service embeds texts like those suspected.

        It is as long as the longest of them, or of those that ``failed`` beside them. But if texts
        were embedded, it is no longer than these: to fail at what is longer may be what a text is
        put aside for.
        """
        suspected = (suspect.text for suspect in self._suspects)
        longest = max((*suspected, *failed), key=_tokens, default=self._longest or _SHORTEST)
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
        unproven = [each for each in self._suspects if each.proof > self.proofs]
        # Addresses that go away together are one outage.
        is_away = isinstance(error, ServiceUnavailable) and not isinstance(error, RequestTimedOut)
        where = address if is_away else "anywhere"
        self._controls_failed[where] += CONTROLS_TO_GIVE_UP if refused else 1
        if not (unproven and self.has_given_up):
            return None
        if any(each.text.text_hash not in self.doubted for each in unproven):
            kind = RequestRejected if refused else ModelFailed
            return kind(f"{error}. {self._verdict(len(unproven), ' and at a harmless one')}")
        # They stay where they are, without another charge.
        self.rejections += [Rejection(each.text.text_hash, each.reason, 0) for each in unproven]
        self._suspects = deque(each for each in self._suspects if each not in unproven)
        return None

    def suspect(self, suspect: Suspect) -> ModelFailed | None:
        """Take note of a suspect; return what is wrong if it cannot be the texts any more."""
        self._suspects.append(suspect)
        if suspect.is_told:
            return None
        blamed = [each.text.text_hash for each in self._suspects if not each.is_told]
        blamed += [each.text_hash for each in self.rejections if each.reason in PASSING_REASONS]
        new = sum(name not in self.doubted for name in blamed)
        if new <= max(MOST_SUSPECTS, self._embedded):
            return None
        return ModelFailed(self._verdict(len(blamed)))

    def judge(self, *, is_last: bool) -> list[Batch]:
        """Reject the suspects for whom there was proof enough since they failed.

        Args:
            is_last: Whether there is no other work whose answers could be waited for.

        Returns:
            What is to be sent once more: others failed by chance meanwhile, so it may have, too.
        """
        again = list[Batch]()
        needed = recovery.failures_to_convict(self.chance)
        for _ in range(len(self._suspects)):
            suspect = self._suspects.popleft()
            wanted = 0 if is_last or suspect.is_told else ANSWERS_TO_JUDGE
            if suspect.proof + wanted > self.proofs:
                self._suspects.append(suspect)
            elif suspect.reason == "model_failed" and suspect.attempts < needed:
                again.append(Batch((suspect.text,), failures=suspect.attempts))
            else:
                name = suspect.text.text_hash
                self.rejections.append(Rejection(name, suspect.reason, suspect.attempts))
        return again

    def _verdict(self, texts: int, also: str = "") -> str:
        return (
            f"The service failed at {texts} texts that were sent alone{also}, and embedded "
            f"{self._embedded}: it is not the texts. See its log; nothing was put into quarantine "
            "for this"
        )


def _tokens(text: Text) -> int:
    return text.tokens
