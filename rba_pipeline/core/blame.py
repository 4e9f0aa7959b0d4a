"""Which texts are at fault that requests failed, and which requests failed by chance.

A text that failed alone is suspected. It is put aside once the service has embedded, since it
failed last, another one that is at least as long: of the run; or, where there is none, a control: a
harmless text as long as the suspects. A probe of a few words would not do: a service may be well at
that, and fail at everything longer. Only if the service fails at the control as well, and no text
as long was ever embedded, may the length itself be the fault: then one as long as the longest that
was embedded will do, for as many texts as one control vouches for. What the service itself says of
a text needs less: that it embeds any. And every eight texts take one more control, whatever else
was embedded: a service may be well at some texts and fail at others, or come to refuse all of them,
and none is at fault.
"""

from collections import Counter
from collections.abc import Collection
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
    _longest: Text | None = None
    _blamed: dict[str, Text] = field(default_factory=dict)
    _told: int = 0
    _vouched_for: int = 0
    _control: Text = _SHORTEST
    _control_sent_at_s: float = 0.0
    _shorter: Text | None = None
    _is_shorter: bool = False
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

    def answered(self, batch: Batch, sent_at_s: float) -> None:
        """Take note of texts that were embedded: what failed before, failed by chance."""
        self._embedded += len(batch.texts)
        self._by_chance += recovery.by_chance(batch)
        self._proven_by(max(batch.texts, key=_tokens), sent_at_s)

    def probed(self, *, is_control: bool) -> ModelFailed | None:
        """Take note of a probe that went well; return what is wrong if too many texts are blamed,
        though a control was embedded."""
        if not is_control:
            self.answers += 1
            return None
        self._vouched_for = len(self._blamed) + self._told
        self._proven_by(self._control, self._control_sent_at_s, vouches=self._is_shorter)
        texts = len(self._blamed.keys() - set(self.doubted))
        if texts <= max(MOST_BY_CONTROLS, self.embedded_before + self._embedded):
            return None
        self._note_without_charge()
        return ModelFailed(
            f"The service failed at {texts} texts that were sent alone, more than have a vector, "
            "and embedded harmless ones as long: it may be the texts, but no more are blamed in "
            "one run. See its log; nothing was put into quarantine for this. If nothing is wrong "
            "there, run the partition again: it does not count these any more"
        )

    def control(self, now_s: float, failed: Collection[Text] = ()) -> str:
        """Return a text whose answer shows that the service embeds texts like those suspected: as
        long as the longest of them, or of those that ``failed`` where none is suspected.

        After one that was not embedded it is shorter, if their length may be their fault.
        """
        suspected = [each.text for each in self._suspects if not each.is_told]
        longest = max(suspected or failed, key=_tokens, default=_SHORTEST)
        told = any(each.is_told for each in self._suspects) and not suspected
        known = self._longest or (_SHORTEST if self.embedded_before or told else None)
        beyond = sum(self._is_beyond(text) for text in self._blamed.values())
        self._shorter = None
        if told and self._longest is not None:
            # A text that may be too long for it says nothing; half of what it embedded does.
            longest = _half(self._longest)
        elif self._is_beyond(longest) and beyond <= MOST_SUSPECTS:
            self._shorter = known or min(failed, key=_tokens, default=None)
        self._is_shorter = self._shorter is not None and (bool(self._controls_failed) or told)
        self._control = self._shorter if self._shorter and self._is_shorter else longest
        self._control_sent_at_s = now_s
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
        is_last_word = refused and (self._is_shorter or self._shorter is None)
        self._controls_failed[where] += CONTROLS_TO_GIVE_UP if is_last_word else 1
        unproven = [each for each in self._suspects if not self._is_proven(each)]
        if not (unproven and self.has_given_up):
            return None
        if any(each.text.text_hash not in self.doubted for each in unproven):
            # What was taken for proof was none.
            self.rejections = [
                each
                for each in self.rejections
                if not refused and each.reason not in PASSING_REASONS
            ]
            kind = RequestRejected if refused else ModelFailed
            return kind(
                f"{error}. The service refused {self._told} texts, failed at {len(self._blamed)} "
                f"alone and at a harmless one, and embedded {self._embedded}: it is not the texts. "
                "See its log; nothing was put into quarantine for this"
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
        if suspect.is_told:
            self._told += 1
        else:
            self._blamed[suspect.text.text_hash] = suspect.text

    def judge(self, addresses: Collection[str], *, is_last: bool) -> list[Batch]:
        """Reject the suspects for whom there was proof enough since they failed.

        Args:
            addresses: Those that take part now.
            is_last: Whether there is no other work whose answers could be waited for.

        Returns:
            What is to be sent once more: others failed by chance meanwhile, so it may have, too; or
            an address takes part by now that has not failed at it.
        """
        again = list[Batch]()
        needed = recovery.failures_to_convict(self.chance)
        suspects, self._suspects = self._suspects, []
        for suspect in suspects:
            name = suspect.text.text_hash
            is_elsewhere = (
                not suspect.is_told
                and suspect.alone < recovery.MOST_FAILURES
                and bool(set(addresses) - suspect.failed_at)
            )
            wanted = 0 if is_last or suspect.is_told else suspect.since + ANSWERS_TO_JUDGE
            if self.proofs < wanted or not self._is_proven(suspect):
                self._suspects.append(suspect)
            elif is_elsewhere or (not suspect.is_told and suspect.alone < needed):
                del self._blamed[name]
                again.append(suspect.again())
            else:
                self.rejections.append(Rejection(name, suspect.reason, suspect.attempts))
        return again

    @property
    def _is_crowded(self) -> bool:
        return len(self._blamed) + self._told > self._vouched_for + MOST_SUSPECTS

    def _is_proven(self, suspect: Suspect) -> bool:
        return suspect.is_proven and not self._is_crowded

    def _is_beyond(self, text: Text) -> bool:
        """Return whether no text as long was embedded in this run."""
        return self._longest is None or text.tokens > self._longest.tokens

    def _proven_by(self, embedded: Text, sent_at_s: float, *, vouches: bool = False) -> None:
        """Take note of an answer to a real text; it ``vouches`` for longer ones, too, if nothing
        as long was ever embedded."""
        self.answers += 1
        self.proofs += 1
        self._controls_failed.clear()
        self._longest = max(self._longest or embedded, embedded, key=_tokens)

        def shows(suspect: Suspect) -> bool:
            is_as_long = suspect.text.tokens <= embedded.tokens or (
                vouches and self._is_beyond(suspect.text)
            )
            return suspect.is_told or (is_as_long and suspect.failed_at_s <= sent_at_s)

        self._suspects = [
            replace(each, is_proven=each.is_proven or shows(each)) for each in self._suspects
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


def _half(text: Text) -> Text:
    return replace(text, text=text.text[: len(text.text) // 2], tokens=text.tokens // 2)
