"""Which setting to measure next, from conservative upwards, and when to stop: the guide's steps.

A setting is texts per request × requests in flight. The search climbs from a small one: it doubles
the one or the other in turn as long as that is faster, then measures the fastest ones again, since
a machine's speed changes between two looks. It takes at most a third of the time that all settings
together would.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from rba_pipeline.core.answers import Answered
from rba_pipeline.core.pacing import LATENCY_SHARE
from rba_pipeline.core.presets import Bounds

# The guide's setting for development, and the largest that are ever worth while.
START = Bounds(4, 2)
LARGEST = Bounds(64, 16)
# A measurement: one round of requests to get under way, and so many that count.
ROUNDS = 3
SHARE_OF_GRID = 1 / 3
# Rivals this close to the fastest are measured as often as it, three times at most.
CLOSE, REPEATS = 1.15, 3
# A step up that gains less is the last one; on a machine that is full by the guide's 80–90 %, one
# that gains less than the third of these.
GAIN, FULL, GAIN_WHEN_FULL = 1.03, 0.9, 1.10
# A smaller setting is as good as the fastest if it is this close.
AS_GOOD = 1.02
# A model that works as much as ever, with so much less of the processors than at its best: somebody
# else has them.
DISTURBED = 0.8
# A measurement so much slower than the fastest is ended early.
HOPELESS = 2.0


@dataclass(frozen=True, slots=True)
class Terms:
    """What bounds the search.

    Attributes:
        probe_s: Shortest time that a setting is measured for, in seconds.
        timeout_s: Of one request, in seconds.
        largest: No setting is beyond it.
    """

    probe_s: float
    timeout_s: float
    largest: Bounds = LARGEST

    def grid(self) -> list[Bounds]:
        """Return every setting in powers of two."""
        return [
            Bounds(2**texts, 2**requests)
            for texts in range(self.largest.batch_size.bit_length())
            for requests in range(self.largest.parallel_batches.bit_length())
        ]

    def takes_s(self, bounds: Bounds, rate: float) -> float:
        """Return how long measuring ``bounds`` takes on a service of ``rate`` texts per second."""
        return max(self.probe_s, (ROUNDS + 1) * in_flight(bounds) / rate)

    def is_patient_enough(self, bounds: Bounds, rate: float) -> bool:
        """Return whether an answer comes well within the time-out."""
        return in_flight(bounds) / rate <= LATENCY_SHARE * self.timeout_s

    def budget_s(self, rate: float) -> float:
        """Return the time that the whole search may take."""
        patient = (each for each in self.grid() if self.is_patient_enough(each, rate))
        return SHARE_OF_GRID * sum(self.takes_s(each, rate) for each in patient)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one setting did.

    Attributes:
        rate: Texts per second.
        seconds: What it took, from the first request to the last answer.
        p50_s: Median time of an answer, in seconds.
        refusals: Requests that met a full service, or timed out.
        errors: Requests that failed in another way.
        processors: Share of the service's processors that it used, 0 to 1; ``None``: not known.
        model: Share of the time that the model worked, 0 to 1; ``None``: not known.
        others: Texts that the service computed for somebody else meanwhile.
    """

    bounds: Bounds
    rate: float
    seconds: float
    p50_s: float = 0.0
    refusals: int = 0
    errors: int = 0
    processors: float | None = None
    model: float | None = None
    others: int = 0

    @property
    def is_sound(self) -> bool:
        """Return whether the service took everything."""
        return not self.refusals and not self.errors and self.rate > 0


@dataclass(frozen=True, slots=True)
class Ending:
    """The setting to use, how fast it was (texts per second), and why nothing more is tried."""

    bounds: Bounds
    rate: float
    why: str


def in_flight(bounds: Bounds) -> int:
    """Return the texts that are in flight at once."""
    return bounds.batch_size * bounds.parallel_batches


def next_setting(past: Sequence[Measurement], terms: Terms) -> Bounds | Ending | None:
    """Return the setting to measure next, or the end; ``None``: not one setting works.

    Args:
        past: All measurements so far, in their order.
    """
    if not past:
        return _within(START, terms.largest)
    if past[-1].is_sound and _is_to_be_repeated(past):
        return past[-1].bounds
    rates = sound_rates(past)
    if not rates:
        return _smaller(past[-1].bounds)
    best = max(rates, key=lambda bounds: (rates[bounds], -in_flight(bounds)))
    spent_s = sum(each.seconds for each in past)
    wanted = _wanted(best, past, terms)
    is_used_up = wanted is not None and (
        spent_s + terms.takes_s(wanted, rates[best]) > terms.budget_s(rates[best])
    )
    if wanted is not None and not is_used_up:
        return wanted
    if wanted in _above(best) and wanted not in rates:
        why = f"the time for tuning, {spent_s:.0f} s, is used up"
    else:
        why = _why(best, past, terms)
    as_good = (bounds for bounds in rates if rates[bounds] * AS_GOOD >= rates[best])
    chosen = min(as_good, key=in_flight)
    return Ending(chosen, rates[chosen], why)


def sound_rates(past: Sequence[Measurement]) -> Mapping[Bounds, float]:
    """Return the median rate of every setting at which nothing was refused and nothing failed.

    What was measured while another program had the processors counts only where there is nothing
    else.
    """
    unsound = {each.bounds for each in past if not each.is_sound}
    most = _most_of_processors(past)
    found: dict[Bounds, dict[bool, list[float]]] = {}
    for each in past:
        if each.bounds not in unsound:
            rates = found.setdefault(each.bounds, {True: [], False: []})
            rates[_is_disturbed(each, most)].append(each.rate)
    return {bounds: median(rates[False] or rates[True]) for bounds, rates in found.items()}


def rate_of(answers: Sequence[Answered], parallel: int) -> float:
    """Return tokens per second over whole rounds of requests, without the first; 0 before that.

    Requests that left together come back together, and the first ones found an idle service.

    Args:
        answers: In the order of their arrival.
        parallel: Requests in flight.
    """
    rounds = len(answers) // parallel - 1
    if rounds < 1:
        return 0.0
    first, last = answers[parallel - 1], answers[(rounds + 1) * parallel - 1]
    counted = answers[parallel : (rounds + 1) * parallel]
    # A service that counts no tokens is measured in texts.
    tokens = sum(max(each.tokens, each.texts) for each in counted)
    return tokens / max(last.at_s - first.at_s, 1e-9)


def is_measured(elapsed_s: float, answers: int, bounds: Bounds, probe_s: float) -> bool:
    """Return whether so many answers after so many seconds are enough to judge a setting by."""
    return elapsed_s >= probe_s and answers >= (ROUNDS + 1) * bounds.parallel_batches


def is_hopeless(answers: int, rate: float, best: float, parallel: int) -> bool:
    """Return whether a setting is so slow that nothing more has to be seen of it."""
    return answers >= 3 * parallel and rate * HOPELESS < best


def _is_to_be_repeated(past: Sequence[Measurement]) -> bool:
    """Return whether the last measurement was disturbed, and its setting not measured often yet."""
    often = sum(each.bounds == past[-1].bounds for each in past)
    return often < REPEATS and _is_disturbed(past[-1], _most_of_processors(past))


def _is_disturbed(found: Measurement, most: float) -> bool:
    share = _of_processors(found)
    return share is not None and share < DISTURBED * most


def _most_of_processors(past: Sequence[Measurement]) -> float:
    return max((share for each in past if (share := _of_processors(each)) is not None), default=0.0)


def _of_processors(found: Measurement) -> float | None:
    """Return the share of the processors that the model had while it worked."""
    return None if found.processors is None or not found.model else found.processors / found.model


def _wanted(best: Bounds, past: Sequence[Measurement], terms: Terms) -> Bounds | None:
    """Return what there is to learn: larger settings, smaller ones, the fastest once more."""
    rates = sound_rates(past)
    tried = {each.bounds for each in past}
    for bounds in (*_larger(best, past, terms), *_smaller_ones(best, rates)):
        if bounds not in tried:
            return bounds
    return _once_more(best, past)


def _larger(best: Bounds, past: Sequence[Measurement], terms: Terms) -> Iterator[Bounds]:
    """Yield what to try above ``best``: the guide doubles texts and requests in turn."""
    if _gain(best, past) < _worth(best, past):
        return
    rate = sound_rates(past)[best]
    for bounds in _above(best):
        if _within(bounds, terms.largest) != bounds:
            continue
        if terms.is_patient_enough(bounds, rate) and _unsound_below(bounds, past) is None:
            yield bounds


def _above(best: Bounds) -> list[Bounds]:
    texts = Bounds(2 * best.batch_size, best.parallel_batches)
    requests = Bounds(best.batch_size, 2 * best.parallel_batches)
    few_texts = best.batch_size <= 4 * best.parallel_batches
    return [texts, requests] if few_texts else [requests, texts]


def _smaller_ones(best: Bounds, rates: Mapping[Bounds, float]) -> Iterator[Bounds]:
    """Yield what to try below ``best``: fewer requests, and fewer texts if nothing smaller is known
    to be slower.
    """
    if best.parallel_batches > 1:
        yield Bounds(best.batch_size, best.parallel_batches // 2)
    if best.batch_size > 1 and min(map(in_flight, rates)) >= in_flight(best):
        yield Bounds(best.batch_size // 2, best.parallel_batches)


def _once_more(best: Bounds, past: Sequence[Measurement]) -> Bounds | None:
    """Return the least measured of the fastest settings; ``None`` when all are known well."""
    rates = sound_rates(past)
    often = {bounds: sum(each.bounds == bounds for each in past) for bounds in rates}
    rivals = [bounds for bounds in rates if rates[bounds] * CLOSE >= rates[best]]
    least = min(rivals, key=lambda bounds: (often[bounds], -rates[bounds]))
    return least if often[least] < REPEATS else None


def _gain(best: Bounds, past: Sequence[Measurement]) -> float:
    """Return how much faster ``best`` is than the fastest with less in flight."""
    rates = sound_rates(past)
    below = [rates[each] for each in rates if in_flight(each) < in_flight(best)]
    return rates[best] / max(below) if below else float("inf")


def _worth(best: Bounds, past: Sequence[Measurement]) -> float:
    """Return the gain that makes another step up worth trying."""
    known = (each.processors for each in past if each.bounds == best)
    busy = [share for share in known if share is not None]
    return GAIN_WHEN_FULL if busy and median(busy) >= FULL else GAIN


def _unsound_below(bounds: Bounds, past: Sequence[Measurement]) -> Measurement | None:
    """Return a measurement that something failed in with as much as ``bounds``, or less."""
    for each in past:
        fewer_texts = each.bounds.batch_size <= bounds.batch_size
        fewer_requests = each.bounds.parallel_batches <= bounds.parallel_batches
        if fewer_texts and fewer_requests and not each.is_sound:
            return each
    return None


def _why(best: Bounds, past: Sequence[Measurement], terms: Terms) -> str:
    gain = _gain(best, past)
    if gain < _worth(best, past):
        full = "the service's processors are nearly full, and " if gain >= GAIN else ""
        return f"{full}the last step up gained only {gain - 1:.0%}"
    for bounds in _above(best):
        if (failed := _unsound_below(bounds, past)) is not None:
            return (
                f"at {failed.bounds.batch_size} × {failed.bounds.parallel_batches} the service "
                f"refused {failed.refusals} requests and failed at {failed.errors}"
            )
        if not terms.is_patient_enough(bounds, sound_rates(past)[best]):
            return f"with more, answers would take over {LATENCY_SHARE:.0%} of the time-out"
    if all(_within(bounds, terms.largest) != bounds for bounds in _above(best)):
        return "larger settings are not tried"
    return "more texts per request, or more requests in flight, are not faster"


def _smaller(bounds: Bounds) -> Bounds | None:
    """Return the next one down where not even the first setting works."""
    if bounds.parallel_batches > 1:
        return Bounds(bounds.batch_size, bounds.parallel_batches // 2)
    return Bounds(bounds.batch_size // 2, 1) if bounds.batch_size > 1 else None


def _within(bounds: Bounds, largest: Bounds) -> Bounds:
    return Bounds(
        min(bounds.batch_size, largest.batch_size),
        min(bounds.parallel_batches, largest.parallel_batches),
    )


def largest_for(max_texts: int, largest: Bounds = LARGEST) -> Bounds:
    """Return the largest setting that is tried on a service that takes so many texts at once."""
    most = min(largest.batch_size, max_texts)
    return Bounds(1 << (most.bit_length() - 1), largest.parallel_batches)
