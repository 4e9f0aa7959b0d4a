"""The setting that is found, in simulated time, and what ends the search."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from rba_pipeline.core.answers import Answered
from rba_pipeline.core.presets import Bounds
from rba_pipeline.core.tuning import (
    LARGEST,
    START,
    Ending,
    Measurement,
    Terms,
    in_flight,
    is_hopeless,
    is_measured,
    largest_for,
    next_setting,
    rate_of,
)
from rba_pipeline_tests.core.simulated_service import (
    TOKENS_PER_TEXT,
    Phase,
    Shape,
    SimulatedService,
    contends,
    falls_off_a_cliff,
    peaks,
    saturates,
)

PROBE_S, SPEED = 5.0, 1000.0
TERMS = Terms(PROBE_S, timeout_s=240)
# What a probe sees of a setting: its measurement, the number of the probe being the second.
Measured = Callable[[Bounds, int], Measurement]


def peaks_early(texts: int, requests: int) -> float:
    """Be fastest where the search begins, and half as fast at four times or a quarter of that."""
    ratio = texts / in_flight(START)
    return 2 * ratio / (1 + ratio * ratio)


def one_at_a_time(texts: int, requests: int) -> float:
    """Saturate in texts, and lose with every further request."""
    return saturates(texts, requests) / (1 + 0.5 * (requests - 1))


SHAPES = [saturates, peaks, falls_off_a_cliff, contends, peaks_early, one_at_a_time]


def share_of_best(shape: Shape, bounds: Bounds) -> float:
    """Return the true rate of ``bounds`` as a share of the best of the whole grid."""
    rates = {each: shape(in_flight(each), each.parallel_batches) for each in TERMS.grid()}
    return rates[bounds] / max(rates.values())


def tuned(measured: Measured, terms: Terms = TERMS) -> tuple[Ending, list[Measurement]]:
    """Search to the end; return it with everything that was measured."""
    past: list[Measurement] = []
    while True:
        step = next_setting(past, terms)
        assert step is not None
        if isinstance(step, Ending):
            return step, past
        past.append(measured(step, len(past)))


def exactly(shape: Shape, **about: float) -> Measured:
    """Return a probe that sees the true rate."""
    return lambda bounds, number: Measurement(
        bounds, SPEED * shape(in_flight(bounds), bounds.parallel_batches), PROBE_S, **about
    )


def on_a_noisy_machine(shape: Shape, seed: int) -> Measured:
    """Return a probe of a closed loop: each text takes ±20 % of its work, and the machine's speed
    is another one, by ±20 %, in every second.
    """
    chance = random.Random(seed)

    def measured(bounds: Bounds, number: int) -> Measurement:
        phases = [Phase(1.0, SPEED * chance.uniform(0.8, 1.2)) for _ in range(int(PROBE_S))]
        answers = SimulatedService(shape, phases, noise=0.2).answers(bounds, seed + number)
        rate = rate_of(answers, bounds.parallel_batches) / TOKENS_PER_TEXT
        return Measurement(bounds, rate, PROBE_S)

    return measured


def on_a_drifting_machine(shape: Shape, seed: int) -> Measured:
    """Return a probe of a machine whose speed goes up and down by 20 % within some ten probes."""
    chance, speed = random.Random(seed), 1.0

    def measured(bounds: Bounds, number: int) -> Measurement:
        nonlocal speed
        speed = min(1.2, max(0.8, speed + chance.uniform(-0.1, 0.1)))
        rate = SPEED * speed * shape(in_flight(bounds), bounds.parallel_batches)
        return Measurement(bounds, rate, PROBE_S)

    return measured


def beside_another_program(shape: Shape, begin: int, probes: int) -> Measured:
    """Return a probe of a machine that somebody else has most of for so many probes."""

    def measured(bounds: Bounds, number: int) -> Measurement:
        share = 0.3 if begin <= number < begin + probes else 1.0
        rate = share * SPEED * shape(in_flight(bounds), bounds.parallel_batches)
        return Measurement(bounds, rate, PROBE_S, processors=0.95 * share, model=0.98)

    return measured


@pytest.mark.parametrize("begin", range(1, 12))
@pytest.mark.parametrize("shape", SHAPES)
def test_a_program_that_takes_the_processors_for_a_while_does_not_mislead(
    shape: Shape, begin: int
) -> None:
    ending, past = tuned(beside_another_program(shape, begin, 2))

    assert share_of_best(shape, ending.bounds) >= 0.9
    assert sum(each.seconds for each in past) <= TERMS.budget_s(SPEED)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_tenth_of_the_best_setting_in_a_third_of_the_time_of_all(shape: Shape) -> None:
    ending, past = tuned(exactly(shape))

    assert share_of_best(shape, ending.bounds) >= 0.9
    assert sum(each.seconds for each in past) <= len(TERMS.grid()) * PROBE_S / 3


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("machine", [on_a_noisy_machine, on_a_drifting_machine])
def test_a_machine_that_changes_its_speed_by_a_fifth_misleads_it_seldom(
    shape: Shape, machine: Callable[[Shape, int], Measured]
) -> None:
    found = [tuned(machine(shape, seed)) for seed in range(20)]

    shares = [share_of_best(shape, ending.bounds) for ending, _ in found]
    assert sum(share >= 0.9 for share in shares) >= 18
    assert min(shares) >= 0.8
    for _, past in found:
        assert sum(each.seconds for each in past) <= len(TERMS.grid()) * PROBE_S / 3


def test_it_climbs_as_the_guide_does_texts_and_requests_in_turn() -> None:
    _, past = tuned(exactly(lambda texts, requests: texts))

    assert [each.bounds for each in past][:8] == [
        Bounds(4, 2), Bounds(8, 2), Bounds(16, 2), Bounds(16, 4), Bounds(32, 4), Bounds(32, 8),
        Bounds(64, 8), Bounds(64, 16),
    ]  # fmt: skip


def test_no_setting_is_beyond_the_largest_one_that_the_service_takes() -> None:
    terms = replace(TERMS, largest=largest_for(max_texts=20))
    _, past = tuned(exactly(lambda texts, requests: texts), terms)

    assert largest_for(2048) == LARGEST
    assert max(each.bounds.batch_size for each in past) == 16


def test_a_refusal_ends_the_climb_and_is_named() -> None:
    def full(bounds: Bounds, number: int) -> Measurement:
        fits = in_flight(bounds) <= 40
        return Measurement(bounds, 100.0 * in_flight(bounds), PROBE_S, refusals=0 if fits else 3)

    ending, past = tuned(full)

    assert in_flight(ending.bounds) == 32
    assert "refused 3 requests" in ending.why
    # What is larger in both than a setting that was refused is not tried.
    assert max(in_flight(each.bounds) for each in past) == 64


def test_a_setting_that_was_refused_once_is_out_though_it_was_fast() -> None:
    past = [
        Measurement(Bounds(4, 2), 10.0, PROBE_S),
        Measurement(Bounds(8, 2), 20.0, PROBE_S),
        Measurement(Bounds(8, 2), 20.0, PROBE_S, errors=1),
    ]

    while not isinstance(step := next_setting(past, TERMS), Ending):
        assert step is not None
        past.append(Measurement(step, 10.0 if step == START else 1.0, PROBE_S))

    assert step.bounds == Bounds(4, 2)


def test_where_not_even_the_first_setting_works_it_goes_down_and_then_says_that_none_does() -> None:
    past: list[Measurement] = []
    while (step := next_setting(past, TERMS)) is not None:
        assert isinstance(step, Bounds)
        past.append(Measurement(step, 0.0, PROBE_S, errors=1))

    assert [each.bounds for each in past] == [
        Bounds(4, 2), Bounds(4, 1), Bounds(2, 1), Bounds(1, 1)
    ]  # fmt: skip


def test_on_full_processors_a_small_gain_is_the_last_step() -> None:
    full, past = tuned(exactly(saturates, processors=0.95))
    _, unknown = tuned(exactly(saturates))

    assert "processors are nearly full" in full.why
    largest = [max(in_flight(each.bounds) for each in found) for found in (past, unknown)]
    assert largest[0] < largest[1]
    assert share_of_best(saturates, full.bounds) >= 0.9


def test_settings_whose_answers_would_come_near_the_time_out_are_not_tried() -> None:
    patience = Terms(PROBE_S, timeout_s=4)
    ending, past = tuned(
        lambda bounds, number: Measurement(bounds, 16.0 * in_flight(bounds) ** 0.1, PROBE_S),
        patience,
    )

    assert max(in_flight(each.bounds) for each in past) == 16
    assert "25% of the time-out" in ending.why


def test_on_a_slow_service_the_search_still_has_its_third_of_what_all_settings_take() -> None:
    slow = Terms(PROBE_S, timeout_s=3600)

    def measured(bounds: Bounds, number: int) -> Measurement:
        rate = 0.5 * saturates(in_flight(bounds), bounds.parallel_batches)
        return Measurement(bounds, rate, slow.takes_s(bounds, rate))

    ending, past = tuned(measured, slow)

    assert len({each.bounds for each in past}) >= 4
    assert sum(each.seconds for each in past) <= slow.budget_s(ending.rate)


def answers(*times_s: float) -> list[Answered]:
    return [Answered(0, 0.0, at_s, texts=4, tokens=40) for at_s in times_s]


@pytest.mark.parametrize(
    ("times", "parallel", "expected"),
    [
        pytest.param([], 1, 0.0, id="nothing"),
        pytest.param([1.0], 1, 0.0, id="the-first-round-does-not-count"),
        pytest.param([1.0, 3.0], 1, 20.0, id="one-round"),
        pytest.param([9.0, 9.0, 11.0, 11.0], 2, 40.0, id="a-round-is-as-many-as-are-in-flight"),
        pytest.param([9.0, 9.0, 11.0, 11.0, 99.0], 2, 40.0, id="a-part-of-a-round-is-left-out"),
    ],
)
def test_a_rate_is_of_whole_rounds_after_the_first(
    times: Sequence[float], parallel: int, expected: float
) -> None:
    assert rate_of(answers(*times), parallel) == pytest.approx(expected)


def test_a_service_that_counts_no_tokens_is_measured_in_texts() -> None:
    found = [replace(each, tokens=0) for each in answers(1.0, 2.0)]

    assert rate_of(found, 1) == pytest.approx(4.0)


def test_a_probe_ends_with_its_time_and_its_rounds_or_when_it_is_hopeless() -> None:
    bounds = Bounds(8, 4)

    assert not is_measured(4.9, 400, bounds, probe_s=5)
    assert not is_measured(60.0, 15, bounds, probe_s=5)
    assert is_measured(5.0, 16, bounds, probe_s=5)
    assert is_hopeless(12, rate=49, best=100, parallel=4)
    assert not is_hopeless(12, rate=51, best=100, parallel=4)
    assert not is_hopeless(11, rate=1, best=100, parallel=4)
