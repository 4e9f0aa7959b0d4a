"""Which texts are at fault that requests failed, and which requests failed by chance.

A text that failed alone is suspected. It is put aside once the service has embedded, since it
failed last, another one that is at least as long: of the run; or, where there is none, a control: a
harmless text as long as the suspects. A probe of a few words would not do: a service may be well at
that, and fail at everything longer. What the service itself says of a text needs less: that it
embeds any. And every eight texts take one more control, whatever else was embedded: a service may
be well at some texts and fail at others, none of which is at fault.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

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
# As many texts are blamed beyond the last control; for more, another one has to be embedded.
MOST_SUSPECTS = 8
# More texts than these, and than have a vector, are not blamed in one run, whatever controls show.
MOST_BY_CONTROLS = 64
# As many controls in a row fail for another reason than that the service is wrong by chance only.
CONTROLS_TO_GIVE_UP = 3
_SHORTEST = Text("", CANARY, 1)


@dataclass(slots=True)
class Blame:
    """What one run has found out so far.

    Attributes:
        doubted: Hashes of texts that the service failed at in earlier runs: that it fails at them
            again says nothing of itself.
        embedded_before: Texts of the partition that had a vector when the run began.
        rejections: The texts at fault.
        answers: Signs of life that the run has seen: answers, and probes that went well.
        proofs: Those of them that were answers to real texts: of the run, or controls.
    """

    doubted: Collection[str] = ()
    embedded_before: int = 0
    rejections: list[Rejection] = field(default_factory=list)
    answers: int = 0
    proofs: int = 0
    _embedded: int = 0
    _blamed: set[str] = field(default_factory=set)
    _vouched_for: int = 0
    _control: Text = _SHORTEST
    _by_chance: int = 0
    _controls_failed: Counter[str] = field(default_factory=Counter)
    _suspects: list[Suspect] = field(default_factory=list)

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
        """Return whether a control is needed before anything else: a text is suspected, and the run
        has not seen any embedded; or more are blamed than the last control vouches for."""
        return self.is_open and (not self.proofs or self._is_crowded)

    @property
    def has_given_up(self) -> bool:
        """Return whether controls were refused everywhere, or as many failed in a row as no chance
        explains."""
        return max(self._controls_failed.values(), default=0) >= CONTROLS_TO_GIVE_UP

    def answered(self, batch: Batch) -> None:
        """Take note of texts that were embedded: what failed before, failed by chance."""
        self._embedded += len(batch.texts)
        if recovery.is_innocent(batch):
            self._by_chance += batch.failures
        self._proven_by(max(batch.texts, key=_tokens))

    def probed(self, *, is_control: bool) -> ModelFailed | None:
        """Take note of a probe that went well; return what is wrong if too many texts are blamed,
        though a control was embedded."""
        if not is_control:
            self.answers += 1
            return None
        self._vouched_for = len(self._blamed)
        self._proven_by(self._control)
        texts = len(self._blamed.difference(self.doubted))
        if texts <= max(MOST_BY_CONTROLS, self.embedded_before + self._embedded):
            return None
        self._note_without_charge()
        return ModelFailed(
            f"The service failed at {texts} texts that were sent alone, more than have a vector, "
            "and embedded harmless ones as long: it may be the texts, but no more are blamed in "
            "one run. See its log; nothing was put into quarantine for this. If nothing is wrong "
            "there, run the partition again: it does not count these any more"
        )

    def control(self, failed: Iterable[Text] = ()) -> str:
        """Return a text whose answer shows that the service embeds texts like those suspected: as
        long as the longest of them, or of those that ``failed`` beside them."""
        suspected = (suspect.text for suspect in self._suspects)
        self._control = max((*suspected, *failed), key=_tokens, default=_SHORTEST)
        return as_long_as(self._control)

    def control_failed(self, error: EmbeddingError, address: str) -> EmbeddingError | None:
        """Take note of a control that was not embedded; return what is wrong if that is enough.

        To be told of a refusal only where no other address is left that has not refused it.
        """
        refused = isinstance(error, RequestTooLarge | TextRejected)
        if isinstance(error, ServiceOverloaded):
            return None
        if not (refused or isinstance(error, ServiceUnavailable | ModelFailed)):
            return error
        # Addresses that go away together are one outage.
        is_away = isinstance(error, ServiceUnavailable) and not isinstance(error, RequestTimedOut)
        where = address if is_away else "anywhere"
        self._controls_failed[where] += CONTROLS_TO_GIVE_UP if refused else 1
        unproven = [each for each in self._suspects if not self._is_proven(each)]
        if not (unproven and self.has_given_up):
            return None
        if any(each.text.text_hash not in self.doubted for each in unproven):
            # What was taken for proof was none.
            self.rejections = [
                each for each in self.rejections if each.reason not in PASSING_REASONS
            ]
            kind = RequestRejected if refused else ModelFailed
            return kind(
                f"{error}. The service failed at {len(unproven)} texts that were sent alone and at "
                f"a harmless one, and embedded {self._embedded}: it is not the texts. See its log; "
                "nothing was put into quarantine for this"
            )
        # They stay where they are, without another charge.
        self.rejections += [Rejection(each.text.text_hash, each.reason, 0) for each in unproven]
        self._suspects = [each for each in self._suspects if each not in unproven]
        return None

    def suspect(self, suspect: Suspect) -> None:
        """Take note of a suspect."""
        # Who embeds any text knows what it says of one.
        is_proven = suspect.is_told and self.proofs > 0
        self._suspects.append(replace(suspect, is_proven=is_proven))
        if not suspect.is_told:
            self._blamed.add(suspect.text.text_hash)

    def judge(self, *, is_last: bool) -> list[Batch]:
        """Reject the suspects for whom there was proof enough since they failed.

        Args:
            is_last: Whether there is no other work whose answers could be waited for.

        Returns:
            What is to be sent once more: others failed by chance meanwhile, so it may have, too.
        """
        again = list[Batch]()
        needed = recovery.failures_to_convict(self.chance)
        suspects, self._suspects = self._suspects, []
        for suspect in suspects:
            name, attempts = suspect.text.text_hash, suspect.attempts
            wanted = 0 if is_last or suspect.is_told else suspect.since + ANSWERS_TO_JUDGE
            if self.proofs < wanted or not self._is_proven(suspect):
                self._suspects.append(suspect)
            elif suspect.reason == "model_failed" and suspect.alone < needed:
                self._blamed.discard(name)
                again.append(Batch((suspect.text,), failures=attempts, alone=suspect.alone))
            else:
                self.rejections.append(Rejection(name, suspect.reason, attempts))
        return again

    @property
    def _is_crowded(self) -> bool:
        return len(self._blamed) > self._vouched_for + MOST_SUSPECTS

    def _is_proven(self, suspect: Suspect) -> bool:
        return suspect.is_proven and (suspect.is_told or not self._is_crowded)

    def _proven_by(self, embedded: Text) -> None:
        """Take note of an answer to a real text."""
        self.answers += 1
        self.proofs += 1
        self._controls_failed.clear()
        self._suspects = [
            replace(each, is_proven=True)
            if each.is_told or each.text.tokens <= embedded.tokens
            else each
            for each in self._suspects
        ]

    def _note_without_charge(self) -> None:
        """Have the next run doubt the texts that were blamed, and hold nothing against them."""
        suspected = [
            Rejection(each.text.text_hash, each.reason, 0)
            for each in self._suspects
            if not each.is_told
        ]
        self.rejections = [
            replace(each, attempts=0) if each.reason in PASSING_REASONS else each
            for each in self.rejections
        ] + suspected


def _tokens(text: Text) -> int:
    return text.tokens
