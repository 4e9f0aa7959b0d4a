"""The soak command: S18 of the service's faults, at a size at which its slope means nothing."""

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import requests

from benchmarks.mixed_load import MixedLoad, WrongAnswer, send_every_size
from benchmarks.server_processes import Command, ServerProcess
from benchmarks.soak import growth, measured, soak

MIB = 2**20
# None of those that make the fake model fail.
WORDS = ["rates", "rose", "while", "wages", "fell"]
FAKE = Command("rba_pipeline_tests.service.fake_service")


def minutes_of(sizes: list[float]) -> list[tuple[float, float]]:
    """Samples of so many MiB, one every half minute."""
    return [(30.0 * at, size * MIB) for at, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("per_minute", "flat"),
    [
        pytest.param(-20, True, id="shrinks"),
        pytest.param(0.5, True, id="settles"),
        pytest.param(5, False, id="leaks"),
    ],
)
def test_a_steady_slope_is_judged_over_all_minutes(per_minute: float, flat: bool) -> None:
    found = growth(minutes_of([500 + per_minute * at / 2 for at in range(12)]))

    assert found.bytes_per_minute == pytest.approx(per_minute * MIB)
    assert found.goal().met is flat


def over(minutes: float, size_at: Callable[[float], float]) -> list[tuple[float, float]]:
    """As many samples as a soak takes; ``size_at`` gives MiB beside 500 after some minutes."""
    at = [minutes * i / 300 for i in range(300)]
    return [(60 * minute, (500 + size_at(minute)) * MIB) for minute in at]


@pytest.mark.parametrize(
    ("minutes", "per_minute"),
    [pytest.param(58, 0.3, id="an-hour"), pytest.param(3, 3, id="five-minutes")],
)
def test_a_slow_leak_is_seen_in_noise_that_alone_is_none(minutes: float, per_minute: float) -> None:
    chance = random.Random(7)
    noise = {minute: chance.uniform(-3, 3) for minute in (minutes * i / 300 for i in range(300))}

    still = growth(over(minutes, lambda minute: noise[minute]))
    leaking = growth(over(minutes, lambda minute: noise[minute] + per_minute * minute))

    assert still.goal().met
    assert not leaking.goal().met
    assert leaking.noise_bytes == pytest.approx(1.5 * MIB, rel=0.3)


@pytest.mark.parametrize(
    "size_at",
    [
        pytest.param(lambda minute: 6.0 * (minute > 24), id="a-step-of-an-allocator"),
        pytest.param(lambda minute: 6.0 * (10 < minute < 40), id="a-step-and-back"),
        pytest.param(lambda minute: math.log1p(minute), id="settles-ever-more-slowly"),
    ],
)
def test_an_hour_in_which_nothing_leaks_is_flat(size_at: Callable[[float], float]) -> None:
    assert growth(over(58, size_at)).goal().met


@pytest.mark.parametrize("swing", [0, 30])
def test_noise_is_no_growth_and_hides_none(swing: float) -> None:
    to_and_fro = [500 + swing * (at % 2) for at in range(12)]
    leaking = [size + 5 * at / 2 for at, size in enumerate(to_and_fro)]

    assert growth(minutes_of(to_and_fro)).goal().met
    assert not growth(minutes_of(leaking)).goal().met


def test_too_few_samples_are_no_slope() -> None:
    with pytest.raises(ValueError, match="three samples"):
        growth([(0.0, 1.0), (1.0, 1.0)])


@pytest.mark.parametrize(
    ("per_minute", "taken"),
    [
        pytest.param([5, 2, 0, 0], 3, id="settles"),
        pytest.param([5, 5, 5, 5], 4, id="leaks"),
        pytest.param([0, 5, 5, 5], 1, id="flat-at-once"),
    ],
)
def test_minutes_are_added_until_memory_is_flat_but_not_for_ever(
    per_minute: list[float], taken: int
) -> None:
    windows = [over(3, lambda minute, slope=slope: slope * minute) for slope in per_minute]
    left = iter(windows)

    found = measured(lambda _: next(left), seconds=180, times=4, ended=lambda: False)

    assert found is windows[taken - 1]
    assert growth(found).goal().met is (0 in per_minute)


@pytest.mark.parametrize(
    ("per_minute", "spans"),
    [
        pytest.param([5, 0, 7], [180, 180, 3300], id="settles"),
        pytest.param([5, 5, 5], [180, 180, 180], id="leaks"),
    ],
)
def test_an_hour_begins_when_memory_was_flat(per_minute: list[float], spans: list[float]) -> None:
    windows = [over(3, lambda minute, slope=slope: slope * minute) for slope in per_minute]
    left, asked = iter(windows), list[float]()

    def take(seconds: float) -> list[tuple[float, float]]:
        asked.append(seconds)
        return next(left)

    found = measured(take, seconds=180, times=3, then_s=3300, ended=lambda: False)

    assert asked == spans
    assert found is windows[-1]
    assert not growth(found).goal().met


def test_a_load_that_has_ended_is_not_judged() -> None:
    found = measured(lambda _: [(0.0, 1.0)], seconds=180, times=4, ended=lambda: True)

    assert found == [(0.0, 1.0)]


def test_a_mixed_load_of_some_seconds_is_answered_as_it_should_be() -> None:
    counts, samples, peak = soak(FAKE, WORDS, callers=4, seconds=4)

    assert counts["short"] > 0
    assert counts["bad"] > 0
    assert len(samples) >= 2
    assert peak >= max(size for _, size in samples) * 0.9


def test_each_size_of_a_pass_is_met_once() -> None:
    with ServerProcess(FAKE) as server:

        def asked(path: str) -> dict[str, Any]:
            found: dict[str, Any] = requests.get(f"{server.url}/{path}", timeout=10).json()
            return found

        limits, before = asked("info")["limits"], asked("health")["stats"]
        load = MixedLoad(WORDS, longest=limits["max_tokens_per_text"])

        sizes = send_every_size(server.url, load, limits)

        after = asked("health")["stats"]
    assert sizes > 50
    assert after["batches"] - before["batches"] == after["requests"] - before["requests"] == sizes


def test_a_wrong_answer_ends_the_load_and_names_the_kind() -> None:
    narrow = Command(FAKE.module, environment={"EMBEDDING_MAX_TEXTS": "1"})

    with pytest.raises(WrongAnswer, match="answered with 413"):
        soak(narrow, WORDS, callers=2, seconds=60)
