"""What becomes of the texts of a request that failed: sent again, split, or put aside.

The text that makes a model fail is found by halving. While the left half of a group that is
known to hold it is tried, the right half waits; what turns out to be innocent goes out again in
one request. One bad text among ``n`` costs at most log2 n, rounded up, and 3 further requests, at a
service that fails at nothing else, and one more for each further address.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from rba_pipeline.core.embeddings import PASSING_REASONS, Text
from rba_pipeline.core.replicas import LONGEST_PAUSE_S

# A text is at fault after as many failures alone, its very first one not counted: so many that
# chance would need to be as unlikely, within these.
FAILURES_TO_CONVICT, MOST_FAILURES = 2, 12
BY_CHANCE = 1e-6
# Lost connections after which a request is halved; one that takes too long is at once.
LOSSES_TO_SPLIT = 3
# After so many losses that may have been others' doing, a batch goes out with nothing beside it.
LOSSES_TO_GO_ALONE = 2
# A text is at fault after so many losses that were nobody else's doing, the last with nothing
# beside it: a slow service makes texts that wait behind others time out, again and again.
LOSSES_TO_CONVICT = 4
# After so many, an address that was not asked is not waited for: each time it may have been away.
MOST_LOSSES = 8
RESEND_AFTER_S = 0.5
# How often a text that is too large elsewhere waits for an address that is away.
TIMES_WAITED_FOR = 6


@dataclass(frozen=True, slots=True)
class Hunt:
    """The search for a text at fault: the other half of its group, and who is innocent so far."""

    sibling: tuple[Text, ...]
    deferred: tuple[Text, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """The texts of one request, and what they went through.

    Attributes:
        failures: Failed requests that held all of them.
        alone: Those of them, but for the first, that held a single text, or it and one that turned
            out to be innocent: a larger group's may be the doing of a neighbour.
        losses: Requests that held all of them and got no whole answer.
        own_losses: Those of them that were not others' doing: nothing else was in flight there; or
            it answered others while this one timed out.
        time_outs: Those of its own losses that took too long.
        failed_at: Addresses where they failed, others' doing apart. The other addresses are asked
            first, and all before a text is blamed.
        too_large_at: Where a text was refused as too large by itself, as often as it was.
        not_before_s: When they may be sent, on the run's clock.
        proof: How many answers the run must have seen before they may be sent.
        refusals: Requests that held all of them and met a full service.
    """

    texts: tuple[Text, ...]
    failures: int = 0
    alone: int = 0
    losses: int = 0
    own_losses: int = 0
    time_outs: int = 0
    failed_at: frozenset[str] = frozenset()
    too_large_at: tuple[str, ...] = ()
    hunt: Hunt | None = None
    not_before_s: float = 0.0
    proof: int = 0
    refusals: int = 0

    @property
    def tokens(self) -> int:
        """Return the tokens of all texts."""
        return sum(text.tokens for text in self.texts)

    @property
    def characters(self) -> int:
        """Return the characters of all texts."""
        return sum(len(text.text) for text in self.texts)

    @property
    def named(self) -> str:
        """Return which texts they are, by the first one's hash, and at which try they are sent."""
        others = f" and {len(self.texts) - 1} more" if len(self.texts) > 1 else ""
        tries = self.failures + self.losses + self.refusals + 1
        return f"text {self.texts[0].text_hash}{others}, at try {tries}"

    @property
    def goes_alone(self) -> bool:
        """Return whether it may take the service down, and what is in flight beside it; or be
        found at fault if it fails once more."""
        is_last = len(self.texts) == 1 and self.own_losses + 1 >= LOSSES_TO_CONVICT
        return is_last or self.losses - self.own_losses >= LOSSES_TO_GO_ALONE


@dataclass(frozen=True, slots=True)
class Suspect:
    """A text that failed alone. It is at fault if the service embeds others like it.

    Attributes:
        alone: Failures that were its own.
        since: How many answers to real texts the run had seen when it failed last.
        failed_at_s: When that was, on the run's clock.
        failed_at: Addresses where it failed.
        is_proven: Whether what was embedded since shows that it is the text.
    """

    text: Text
    reason: str
    attempts: int
    alone: int = 0
    since: int = 0
    failed_at_s: float = 0.0
    failed_at: frozenset[str] = frozenset()
    is_proven: bool = False

    @property
    def is_told(self) -> bool:
        """Return whether the service itself named the text and what is wrong with it."""
        return self.reason not in PASSING_REASONS

    def again(self) -> Batch:
        """Return the request that tries it once more."""
        if self.reason == "model_failed":
            return Batch((self.text,), self.attempts, self.alone, failed_at=self.failed_at)
        return Batch(
            (self.text,),
            losses=self.attempts,
            own_losses=self.alone,
            time_outs=self.alone if self.reason == "timed_out" else 0,
            failed_at=self.failed_at,
        )


@dataclass(frozen=True, slots=True)
class Recovery:
    """What is to be sent, and who is suspected."""

    batches: tuple[Batch, ...] = ()
    suspect: Suspect | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run knows when a request has failed.

    Attributes:
        address: Where it failed.
        at_s: When, on the run's clock.
        answers: Signs of life that the run has seen so far.
        proofs: Those of them that were answers to real texts.
        addresses: Those that take part now.
        chance: Share of requests that fail whatever their texts are, 0 to below 1.
    """

    address: str
    at_s: float
    answers: int
    proofs: int
    addresses: frozenset[str]
    chance: float = 0.0

    def elsewhere(self, batch: "Batch") -> bool:
        """Return whether an address takes part at which the batch has not failed yet."""
        return bool(self.addresses - batch.failed_at - {self.address})


def failures_to_convict(chance: float) -> int:
    """Return how many failures alone, one after the other, say that it is the text.

    Where requests fail by chance, ``k`` of them in a row do so with ``chance ** k``.
    """
    if chance <= 0.0:
        return FAILURES_TO_CONVICT
    needed = math.ceil(math.log(BY_CHANCE) / math.log(chance))
    return min(max(needed, FAILURES_TO_CONVICT), MOST_FAILURES)


def by_chance(answered: Batch) -> int:
    """Return how many failures of an answered batch were nobody's doing.

    Those of a group that was narrowed down or halved may be the doing of who is left of it.
    """
    failures = answered.failures if answered.hunt is None or not answered.hunt.sibling else 0
    return failures + (answered.own_losses if answered.losses < LOSSES_TO_SPLIT else 0)


def after_success(batch: Batch) -> Recovery:
    """Return what follows a request that was answered."""
    hunt = batch.hunt
    if hunt is None:
        return Recovery()
    if hunt.sibling:
        # The left half is innocent: the text is in the right one.
        right = _narrowed(replace(batch, texts=hunt.sibling), hunt.deferred)
        # One failure of the group may have been chance: then it is as if it had never been sent.
        is_known = len(hunt.sibling) == 1 and batch.failures > 1
        return Recovery((replace(right, alone=int(is_known)),))
    return Recovery(_fresh(hunt.deferred))


def after_model_failure(batch: Batch, seen: Seen) -> Recovery:
    """Return what follows a request on which the service failed inside."""
    failed = replace(batch, failures=batch.failures + 1, failed_at=batch.failed_at | {seen.address})
    if len(batch.texts) == 1:
        return _alone(replace(failed, alone=batch.alone + (batch.failures > 0)), seen)
    # Once more as it is, if it may be chance: others were embedded, or may be elsewhere.
    if batch.hunt is None and failed.failures == 1 and (seen.proofs or seen.elsewhere(failed)):
        return Recovery((replace(failed, not_before_s=seen.at_s + RESEND_AFTER_S),))
    narrowed = _narrowed(failed, _deferred(batch), frozenset({seen.address}))
    # In an outage there is no culprit: the first halving waits for a sign of life.
    if batch.hunt is None:
        narrowed = replace(narrowed, proof=seen.answers + 1)
    return Recovery((narrowed,))


def after_loss(
    batch: Batch, seen: Seen, *, timed_out: bool, is_alone: bool, others_answered: bool
) -> Recovery:
    """Return what follows a request without a whole answer.

    Args:
        timed_out: Whether it took too long, or the connection was refused or lost.
        is_alone: Whether nothing else was in flight at its address.
        others_answered: Whether the run saw answers meanwhile.
    """
    is_own = is_alone or (timed_out and others_answered)
    # Where it was others' doing, it may still be embedded.
    failed_at = batch.failed_at | {seen.address} if is_own else batch.failed_at
    lost = replace(
        batch,
        losses=batch.losses + 1,
        own_losses=batch.own_losses + is_own,
        time_outs=batch.time_outs + (timed_out and is_own),
        failed_at=failed_at,
    )
    if len(batch.texts) == 1:
        has_been_everywhere = lost.own_losses >= MOST_LOSSES or not seen.elsewhere(lost)
        if lost.own_losses < LOSSES_TO_CONVICT or not (is_alone and has_been_everywhere):
            return Recovery((lost,))
        # Not what befell it last: one that hangs may lose its connection once by chance.
        reason = "timed_out" if 2 * lost.time_outs >= lost.own_losses else "connection_lost"
        suspect = Suspect(
            batch.texts[0], reason, lost.losses, lost.own_losses, seen.proofs, seen.at_s,
            lost.failed_at,
        )  # fmt: skip
        return Recovery(_fresh(_deferred(batch)), suspect)
    # Fewer texts take less time: no proof is needed to try.
    if timed_out:
        return Recovery(halves(replace(lost, losses=0, own_losses=0)))
    if lost.losses >= LOSSES_TO_SPLIT and is_own:
        return Recovery(halves(lost))
    return Recovery((lost,))


def halves(batch: Batch) -> tuple[Batch, ...]:
    """Return two requests of half as many texts each, and one of those that waited.

    One of the halves holds what the losses were for: both may do harm to what is beside them.
    """
    middle = (len(batch.texts) + 1) // 2
    left, right = (
        Batch(texts, losses=batch.losses, own_losses=_inherited(batch, texts))
        for texts in (batch.texts[:middle], batch.texts[middle:])
    )
    return (left, right, *_fresh(_deferred(batch)))


def _inherited(group: Batch, texts: Sequence[Text]) -> int:
    """Return how many own losses of a group count for these texts of it.

    A text that is left by itself may be the innocent one: it is at fault only after three losses
    when it was alone.
    """
    return min(group.own_losses, LOSSES_TO_CONVICT - 3) if len(texts) == 1 else group.own_losses


def too_large(batch: Batch, seen: Seen, addresses: Collection[str]) -> Batch | None:
    """Return how a single text goes on that an address refuses as too large; ``None``: not at all.

    Machines differ in how much fits into their memory. One that is away is waited for, but not
    for long.

    Args:
        addresses: All of the run.
    """
    asked = (*batch.too_large_at, seen.address)
    again = replace(batch, too_large_at=asked, failed_at=frozenset(asked))
    others = set(addresses) - again.failed_at
    if others & seen.addresses and seen.address not in batch.too_large_at:
        return again
    if others and len(asked) < len(addresses) + TIMES_WAITED_FOR:
        return replace(again, not_before_s=seen.at_s + LONGEST_PAUSE_S)
    return None


def after_rejection(batch: Batch, index: int, reason: str) -> Recovery:
    """Return what follows a request in which the service refuses the text at ``index``.

    Its own word for that is enough from a service that embeds texts at all.
    """
    suspect = Suspect(batch.texts[index], reason, attempts=1)
    left = batch.texts[:index] + batch.texts[index + 1 :]
    if left:
        return Recovery((replace(batch, texts=left),), suspect)
    # It may be what its group failed for: nothing is held against who is left of two.
    batches = (replace(each, alone=0) for each in after_success(batch).batches)
    return Recovery(tuple(batches), suspect)


def _alone(batch: Batch, seen: Seen) -> Recovery:
    waiting = _fresh(_deferred(batch))
    # An address that was not asked may stay full for ever: it is waited for, but not for long.
    is_awaited = batch.alone < MOST_FAILURES and seen.elsewhere(batch)
    if batch.alone < failures_to_convict(seen.chance) or is_awaited:
        again = replace(
            batch, hunt=None, not_before_s=seen.at_s + RESEND_AFTER_S, proof=seen.answers + 1
        )
        return Recovery((*waiting, again))
    suspect = Suspect(
        batch.texts[0], "model_failed", batch.failures, batch.alone, seen.proofs, seen.at_s,
        batch.failed_at,
    )  # fmt: skip
    return Recovery(waiting, suspect)


def _narrowed(
    group: Batch, deferred: Sequence[Text], failed_at: frozenset[str] = frozenset()
) -> Batch:
    """Return the request that tries the left half of a group known to hold the text at fault."""
    middle = len(group.texts) // 2
    left, right = (group.texts[:middle], group.texts[middle:]) if middle else (group.texts, ())
    if len(left) == 1:
        # Alone it has failed nowhere: what its group failed at may take it.
        failed_at = frozenset()
    return Batch(left, group.failures, failed_at=failed_at, hunt=Hunt(right, tuple(deferred)))


def _deferred(batch: Batch) -> tuple[Text, ...]:
    return (*batch.hunt.deferred, *batch.hunt.sibling) if batch.hunt else ()


def _fresh(texts: tuple[Text, ...]) -> tuple[Batch, ...]:
    return (Batch(texts),) if texts else ()
