"""Every kind of failure, in simulated time: what is sent again, what is blamed, how a run ends."""

import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from rba_pipeline.core.backlog import USUAL_STEPS, BacklogSteps
from rba_pipeline.core.dispatch import Dispatch, Probe, Request
from rba_pipeline.core.embeddings import Text
from rba_pipeline.core.errors import (
    ContractBroken,
    EmbeddingError,
    ModelFailed,
    NotAllowed,
    RequestRejected,
    RequestTimedOut,
    RequestTooLarge,
    ServiceOverloaded,
    ServiceUnavailable,
    TextRejected,
    VectorsDrifted,
    WrongSpace,
)
from rba_pipeline.core.pacing import fixed
from rba_pipeline.core.presets import Bounds
from rba_pipeline.core.run_limits import Limits
from rba_pipeline_tests.core.simulated_run import CONTROL, Run, Service, run, texts


def poisoned(*bad: int) -> "Poison":
    return Poison({str(number) for number in bad})


class Poison:
    """Fails at every request that holds one of the bad texts."""

    def __init__(self, bad: set[str]) -> None:
        self.bad = bad

    def __call__(self, address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        return ModelFailed("500") if self.bad & set(names) else None


def assert_each_once(found: Run, count: int, rejected: set[str] = frozenset()) -> None:
    assert Counter(found.embedded) == {
        str(number): 1 for number in range(count) if str(number) not in rejected
    }
    assert set(found.rejected) == rejected
    assert found.dispatch.unkept == 0
    assert found.dispatch.failure is None


def test_a_probe_that_is_not_answered_holds_up_nothing_that_is_done() -> None:
    dispatch = Dispatch(
        iter(texts(1)),
        1,
        ("a", "b"),
        fixed(Bounds(8, 2), timeout_s=30),
        False,
        BacklogSteps.read(USUAL_STEPS),
        Limits(32, 1 << 30, 60),
        unreachable=("b",),
    )
    probe, request = dispatch.next_request(0.0), dispatch.next_request(0.0)
    assert isinstance(request, Request)
    before = dispatch.is_done

    dispatch.answered(request, 10, 0.1)

    assert probe == Probe("b")
    assert not before
    assert dispatch.is_done


def test_every_text_goes_once_in_full_requests() -> None:
    found = run(poisoned(), texts(20), bounds=Bounds(8, 2))

    assert [len(names) for _, names in found.requests] == [8, 8, 4]
    assert found.probes == 0
    assert_each_once(found, 20)


@pytest.mark.parametrize(
    ("share", "most"),
    [
        pytest.param(None, 640, id="as-many-as-the-pace-makes"),
        pytest.param(250, 240, id="three-of-eight-requests"),
        pytest.param(80, 80, id="one-at-a-time"),
        pytest.param(5, 80, id="less-than-a-request-goes-alone"),
    ],
)
def test_no_more_tokens_are_in_flight_than_the_share_of_a_run(share: int | None, most: int) -> None:
    found = run(poisoned(), texts(400), bounds=Bounds(8, 8), address_tokens=share)

    assert found.most_tokens == most
    assert_each_once(found, 400)


def test_refused_and_bad_texts_end_as_well_within_a_share() -> None:
    refused = iter([True] * 3)

    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        if next(refused, False):
            return ServiceOverloaded("429", 0.5)
        return ModelFailed("500") if "37" in names else None

    found = run(service, texts(400), bounds=Bounds(8, 8), address_tokens=160, addresses=("a", "b"))

    assert found.most_tokens == 160
    assert_each_once(found, 400, {"37"})


@pytest.mark.parametrize("size", [8, 16, 32])
def test_one_bad_text_costs_at_most_the_logarithm_of_its_request_and_three_beside_others(
    size: int,
) -> None:
    count = 20 * size
    for place in range(size):
        bad = 3 * size + place
        found = run(poisoned(bad), texts(count), bounds=Bounds(size, 2))

        assert_each_once(found, count, {str(bad)})
        assert len(found.requests) - 20 <= math.log2(size) + 3
        # It may be among the last that are sent: nobody answers between its failures, or since.
        assert found.calls - 20 <= math.log2(size) + 4
        assert found.rejected == {str(bad): "model_failed"}


@pytest.mark.parametrize("bounds", [Bounds(1, 1), Bounds(4, 1), Bounds(8, 4)], ids=str)
def test_a_service_that_fails_by_chance_has_no_innocent_text_blamed(bounds: Bounds) -> None:
    chance = random.Random(10)

    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        return ModelFailed("500") if chance.random() < 0.1 or "1500" in names else None

    for _ in range(20):
        found = run(service, texts(2000), bounds=bounds)

        assert_each_once(found, 2000, {"1500"})


@pytest.mark.parametrize("bounds", [Bounds(4, 1), Bounds(8, 4), Bounds(32, 8)], ids=str)
@pytest.mark.parametrize("by_chance", [0.02, 0.1])
def test_beside_bad_texts_a_chance_failure_has_no_innocent_one_blamed(
    by_chance: float, bounds: Bounds
) -> None:
    for seed in range(15):
        chance = random.Random(seed)
        bad = {str(number) for number in chance.sample(range(1000), 12)}

        def service(
            address: str, names: Sequence[str], at_s: float,
            chance: random.Random = chance, bad: set[str] = bad,
        ) -> EmbeddingError | None:  # fmt: skip
            is_bad = bool(bad & set(names))
            return ModelFailed("500") if chance.random() < by_chance or is_bad else None

        found = run(service, texts(1000), bounds=bounds, outage_s=600)

        assert_each_once(found, 1000, bad)


@pytest.mark.parametrize("place", range(32))
def test_one_bad_text_in_the_only_request_is_found_as_fast(place: int) -> None:
    found = run(poisoned(place), texts(32), bounds=Bounds(32, 2))

    assert_each_once(found, 32, {str(place)})
    assert found.calls - 1 <= 2 * math.log2(32)


@pytest.mark.parametrize(
    "addresses", [("a",), ("a", "b"), ("a", "b", "c"), ("a", "b", "c", "d")], ids=len
)
@pytest.mark.parametrize("size", [8, 16, 32])
def test_it_costs_one_more_for_each_further_address_that_has_to_fail_at_it(
    size: int, addresses: Sequence[str]
) -> None:
    for place in range(size):
        found = run(poisoned(place), texts(size), bounds=Bounds(size, 2), addresses=addresses)

        assert_each_once(found, size, {str(place)})
        assert len(found.requests) - 1 <= 2 * math.log2(size) + len(addresses) - 1


@pytest.mark.parametrize("bad", [(0, 1), (0, 31), (15, 16), (3, 9, 27), (40, 41, 42)])
def test_several_bad_texts_are_all_found(bad: tuple[int, ...]) -> None:
    found = run(poisoned(*bad), texts(160), bounds=Bounds(32, 2))

    assert_each_once(found, 160, set(map(str, bad)))


@pytest.mark.parametrize("bounds", [Bounds(1, 1), Bounds(2, 1), Bounds(4, 2), Bounds(32, 8)])
@pytest.mark.parametrize("count", [1, 2, 33])
def test_a_bad_text_is_found_at_every_setting(bounds: Bounds, count: int) -> None:
    found = run(poisoned(0), texts(count), bounds=bounds)

    assert_each_once(found, count, {"0"})


@pytest.mark.parametrize("begins_s", [0.0, 0.35])
@pytest.mark.parametrize("bounds", [Bounds(32, 1), Bounds(4, 2), Bounds(32, 8)])
def test_a_service_that_fails_at_everything_ends_the_run_and_blames_nobody(
    begins_s: float, bounds: Bounds
) -> None:
    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        return ModelFailed("500") if at_s >= begins_s else None

    found = run(service, texts(2000), bounds=bounds, outage_s=60)

    assert isinstance(found.dispatch.failure, ModelFailed)
    assert "No text is blamed" in str(found.dispatch.failure)
    assert found.rejected == {}
    assert 60 <= found.ended_s - begins_s < 62
    # Each batch in flight may be tried again a few times, and then a canary now and then.
    assert found.calls <= begins_s * 10 * bounds.parallel_batches + 8 * bounds.parallel_batches + 12


@pytest.mark.parametrize("bounds", [Bounds(32, 1), Bounds(4, 2), Bounds(32, 8)], ids=str)
def test_no_request_is_halved_as_long_as_nothing_at_all_is_answered(bounds: Bounds) -> None:
    found = run(lambda address, names, at_s: ModelFailed("500"), texts(2000), bounds=bounds)

    assert {len(names) for _, names in found.requests} == {bounds.batch_size}


@pytest.mark.parametrize("lasts_s", [0.5, 2, 8, 40])
@pytest.mark.parametrize("error", [ModelFailed, ServiceUnavailable, RequestTimedOut])
@pytest.mark.parametrize("bounds", [Bounds(32, 1), Bounds(4, 2), Bounds(32, 8)])
def test_an_outage_that_ends_blames_nobody_and_loses_nothing(
    lasts_s: float, error: type[EmbeddingError], bounds: Bounds
) -> None:
    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        return error("down") if 0.35 <= at_s < 0.35 + lasts_s else None

    found = run(service, texts(3000), bounds=bounds)

    assert_each_once(found, 3000)


def test_a_full_service_gets_the_same_again_after_the_time_it_named() -> None:
    sent: list[float] = []

    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        sent.append(at_s)
        return ServiceOverloaded("429", 2.0) if len(sent) == 1 else None

    found = run(service, texts(8), bounds=Bounds(8, 1))

    assert sent == [0.0, pytest.approx(2.1)]
    assert (found.dispatch.refusals, found.probes) == (1, 0)
    assert_each_once(found, 8)


@pytest.mark.parametrize("error", [ServiceOverloaded, ServiceUnavailable])
def test_a_service_that_names_an_absurd_time_is_asked_again_within_the_budget(
    error: type[ServiceOverloaded] | type[ServiceUnavailable],
) -> None:
    again = run(
        lambda address, names, at_s: error("later", 1e6) if at_s < 5 else None,
        texts(8), bounds=Bounds(8, 1), outage_s=60,
    )  # fmt: skip
    never = run(
        lambda address, names, at_s: error("later", 1e6), texts(8), bounds=Bounds(8, 1), outage_s=60
    )

    assert_each_once(again, 8)
    assert again.ended_s < 60
    assert isinstance(never.dispatch.failure, error)
    assert never.ended_s < 62


def test_a_full_service_that_names_no_time_at_all_is_not_asked_without_a_pause() -> None:
    sent: list[float] = []

    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        sent.append(at_s)
        return ServiceOverloaded("429", 0.0)

    run(service, texts(8), bounds=Bounds(8, 1), outage_s=60)

    assert min(b - a for a, b in itertools.pairwise(sent)) >= 0.1


def test_a_service_that_stays_full_ends_the_run_after_the_stated_time() -> None:
    found = run(
        lambda address, names, at_s: ServiceOverloaded("429", 2.0),
        texts(100), bounds=Bounds(8, 4), outage_s=20,
    )  # fmt: skip

    assert isinstance(found.dispatch.failure, ServiceOverloaded)
    assert "outage_s=20" in str(found.dispatch.failure)
    assert 20 <= found.ended_s <= 23
    assert found.calls <= 4 * 12
    assert found.rejected == {}


def test_a_request_that_is_too_large_is_split_and_never_sent_again_as_it_was() -> None:
    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        return RequestTooLarge("413", "too_large") if len(names) > 3 else None

    found = run(service, texts(16), bounds=Bounds(16, 1))

    assert len({names for _, names in found.requests}) == len(found.requests)
    assert_each_once(found, 16)


def of_length(characters: int, count: int) -> list[Text]:
    names = [f"{characters}-{number}" for number in range(count)]
    return [Text(name, "x" * characters, 10) for name in names]


def refused_by_size(most: int, bad: str = "") -> Service:
    """Refuse more characters than ``most``, by the length that leads a name, and one text."""

    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        size = sum(int(name.partition("-")[0]) for name in names if "-" in name)
        return RequestTooLarge("413", "too_large") if size > most or bad in names else None

    return service


@pytest.mark.parametrize("most", [250, 1000, 2900])
@pytest.mark.parametrize("bad", ["", "100-900"], ids=["all-fit", "one-does-not"])
def test_a_limit_on_the_size_of_requests_is_met_only_a_few_times(most: int, bad: str) -> None:
    found = run(refused_by_size(most, bad), of_length(100, 2000), bounds=Bounds(32, 4))

    in_vain = sum(len(names) for _, names in found.requests) - 2000
    # What was in flight then, at each halving; once more for the text that is too large, which is
    # searched for; and one request each time that a larger one is tried.
    assert in_vain <= 32 * 4 * (math.ceil(math.log2(3200 / most)) + 1) + 32 + 32 * 6
    assert sorted(found.embedded) == sorted(
        text.text_hash for text in of_length(100, 2000) if text.text_hash != bad
    )


def of_lengths(count: int) -> list[Text]:
    """Return texts of 20 to 2,000 characters, each named by its length and number."""
    chance = random.Random(1)
    lengths = [chance.randint(20, 2000) for _ in range(count)]
    return [Text(f"{length}-{n}", "x" * length, 10) for n, length in enumerate(lengths)]


@pytest.mark.parametrize(
    "wanted", [of_length(500, 8000), of_lengths(8000)], ids=["of-one-length", "of-any-length"]
)
@pytest.mark.parametrize("limit", ["characters", "texts"])
def test_a_lasting_limit_refuses_few_requests_of_a_long_run(limit: str, wanted: list[Text]) -> None:
    refused = 0

    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        nonlocal refused
        size = sum(int(name.partition("-")[0]) for name in names if "-" in name)
        is_large = len(names) > 10 if limit == "texts" else size > 6000
        refused += is_large
        return RequestTooLarge("413", "too_large") if is_large else None

    found = run(service, wanted, bounds=Bounds(32, 4))

    assert refused <= 40
    assert sorted(found.embedded) == sorted(text.text_hash for text in wanted)


def test_a_refusal_by_chance_makes_requests_smaller_for_a_moment() -> None:
    sent = 0

    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        nonlocal sent
        sent += 1
        return RequestTooLarge("413", "too_large") if sent == 1 else None

    # Of the first, half the characters are less than those of a single later one.
    found = run(service, of_length(5, 32) + of_length(500, 1000), bounds=Bounds(32, 1))

    assert len(found.requests) <= 33 + 8
    assert_all_once(found, 1032)


@pytest.mark.parametrize("parallel", [1, 4])
def test_a_proxy_that_refuses_requests_for_half_a_second_is_soon_forgotten(parallel: int) -> None:
    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        return RequestTooLarge("413") if len(names) > 1 and at_s < 0.5 else None

    found = run(service, of_length(500, 3200), bounds=Bounds(32, parallel))

    assert {len(names) for _, names in found.requests[-50:]} == {32}
    assert_all_once(found, 3200)


def assert_all_once(found: Run, count: int) -> None:
    assert len(found.embedded) == len(set(found.embedded)) == count
    assert found.rejected == {}
    assert found.dispatch.failure is None


def test_what_waits_to_be_sent_again_is_split_where_it_is_known_to_be_too_large() -> None:
    refused = list[int]()

    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        # It is full at first: requests of any size wait.
        if at_s < 1:
            return ServiceOverloaded("429", 2)
        if len(names) > 8:
            refused.append(len(names))
            return RequestTooLarge("413")
        return None

    found = run(service, of_length(500, 256), bounds=Bounds(32, 8))

    # One wave, and few that were tried since.
    assert refused[:8] == [32] * 8
    assert refused[8:].count(32) == 0
    assert len(refused[8:]) <= 12
    assert_all_once(found, 256)


@pytest.mark.parametrize("seed", range(40))
def test_bad_texts_are_found_where_requests_are_split_refused_and_lost(seed: int) -> None:
    chance, bad = random.Random(seed), {"17", "18", "200", "399"}

    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        if chance.random() < 0.1:
            return chance.choice([ServiceOverloaded("429", 1), ServiceUnavailable("reset")])
        if len(names) > (3 if 2 < at_s < 5 else 12):
            return RequestTooLarge("413")
        return ModelFailed("500") if bad & set(names) else None

    found = run(service, texts(400), bounds=Bounds(32, 4), addresses=("a", "b"))

    assert_each_once(found, 400, bad)


def test_many_short_texts_are_sent_together_where_a_few_long_ones_are_too_large() -> None:
    wanted = of_length(1000, 320) + of_length(10, 320)
    found = run(refused_by_size(10_000), wanted, bounds=Bounds(32, 4))

    assert {len(names) for _, names in found.requests[-5:]} == {32}
    assert sorted(found.embedded) == sorted(text.text_hash for text in wanted)


def test_one_text_that_is_too_large_makes_the_requests_of_others_no_smaller() -> None:
    found = run(refused_by_size(1 << 30, "100-0"), of_length(100, 640), bounds=Bounds(32, 1))

    assert [len(names) for _, names in found.requests[-10:]] == [32] * 10


def test_an_address_behind_a_limit_leaves_the_requests_to_another_as_they_are() -> None:
    limited = refused_by_size(1000)

    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        return limited(address, names, at_s) if address == "b" else None

    found = run(service, of_length(100, 2000), bounds=Bounds(32, 4), addresses=("a", "b"))

    sizes = {each: [len(names) for at, names in found.requests if at == each] for each in "ab"}
    assert sum(map(sum, sizes.values())) - 2000 <= 2 * 32 * 4
    assert sizes["a"][-5:-1] == [32] * 4
    assert max(sizes["b"][-5:]) <= 10


def test_a_single_text_that_is_too_large_is_quarantined_and_its_neighbours_embedded() -> None:
    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        return RequestTooLarge("413", "too_large") if "5" in names else None

    found = run(service, texts(16), bounds=Bounds(16, 2))

    assert found.rejected == {"5": "too_large"}
    assert found.controls == 0
    assert_each_once(found, 16, {"5"})


def test_a_text_too_large_for_one_address_is_embedded_at_another() -> None:
    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        is_large = address == "b" and "5" in names
        return RequestTooLarge("413", "too_large") if is_large else None

    for count in (1, 6, 64):
        found = run(service, texts(count), bounds=Bounds(8, 2), addresses=("b", "a"))

        assert_each_once(found, count)


@pytest.mark.parametrize("count", [2, 5, 40])
@pytest.mark.parametrize("error", [ModelFailed, ServiceUnavailable, RequestTimedOut])
def test_beside_an_address_that_takes_no_text_only_bad_ones_are_blamed(
    error: type[EmbeddingError], count: int
) -> None:
    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        if "1" in names:
            return error("bad")
        return RequestTooLarge("413", "too_large") if address == "b" and names else None

    for bounds in (Bounds(1, 1), Bounds(4, 2), Bounds(32, 8)):
        found = run(service, texts(count), bounds=bounds, addresses=("b", "a"), outage_s=300)

        assert_each_once(found, count, {"1"})
        assert found.calls <= 60 + 4 * count


def test_requests_are_formed_within_the_tokens_that_the_service_takes() -> None:
    found = run(poisoned(), texts(30), bounds=Bounds(8, 2), request_tokens=35)

    assert {len(names) for _, names in found.requests} == {3}
    assert_each_once(found, 30)


def test_rejected_texts_leave_their_request_one_by_one() -> None:
    bad = {"1", "2", "7"}

    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        places = [place for place, name in enumerate(names) if name in bad]
        return TextRejected("422", places[0], "text_empty") if places else None

    found = run(service, texts(16), bounds=Bounds(8, 1))

    assert len(found.requests) == 2 + 3
    assert set(found.rejected.values()) == {"text_empty"}
    assert_each_once(found, 16, bad)


@pytest.mark.parametrize(
    "error",
    [
        NotAllowed("401"), RequestRejected("400"), ContractBroken("3 for 4"), WrongSpace("b"),
        TextRejected("index out of range", 99, "text_empty"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_what_no_request_can_mend_stops_the_run_at_once(error: EmbeddingError) -> None:
    found = run(lambda address, names, at_s: error, texts(1000), bounds=Bounds(8, 3))

    assert found.dispatch.failure is error
    assert error.__notes__ == ["failed last: text 0 and 7 more, at try 1"]
    assert len(found.requests) == 3
    assert found.rejected == {}


def test_requests_that_take_too_long_are_sent_in_halves() -> None:
    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        return RequestTimedOut("30 s") if len(names) > 8 else None

    found = run(service, texts(64), bounds=Bounds(32, 2), outage_s=600)

    assert_each_once(found, 64)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(RequestTimedOut, "timed_out"), (ServiceUnavailable, "connection_lost")],
)
def test_a_text_that_never_gets_an_answer_is_quarantined_where_others_do(
    error: type[EmbeddingError], reason: str
) -> None:
    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        return error("gone") if "9" in names else None

    found = run(service, texts(2000), bounds=Bounds(8, 4), addresses=("a", "b"))

    assert found.rejected == {"9": reason}
    assert_each_once(found, 2000, {"9"})


def test_a_dead_address_costs_what_was_in_flight_there_and_is_used_again_when_it_is_back() -> None:
    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        return ServiceUnavailable("refused") if address == "b" and 1 <= at_s < 20 else None

    found = run(service, texts(16_000), bounds=Bounds(8, 4), addresses=("a", "b"))

    sent = [name for _, names in found.requests for name in names]
    assert_each_once(found, 16_000)
    assert len(sent) - 16_000 <= 8 * 4
    by_address = Counter(address for address, _ in found.requests)
    assert min(by_address.values()) > 0.2 * max(by_address.values())
    assert found.requests[-1][0] in ("a", "b")
    assert {address for address, _ in found.requests[-40:]} == {"a", "b"}


def test_an_address_that_fails_at_everything_has_no_text_blamed_for_it() -> None:
    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        return ModelFailed("500") if address == "b" else None

    found = run(service, texts(4000), bounds=Bounds(8, 4), addresses=("a", "b"))

    assert_each_once(found, 4000)
    assert sum(address == "b" for address, _ in found.requests) <= 8


def test_a_bad_text_beside_an_address_that_fails_at_everything_is_the_only_one_blamed() -> None:
    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        return ModelFailed("500") if address == "b" or "77" in names else None

    found = run(service, texts(4000), bounds=Bounds(8, 4), addresses=("a", "b"))

    assert_each_once(found, 4000, {"77"})


@pytest.mark.parametrize(("count", "bounds"), [(40, Bounds(8, 2)), (300, Bounds(32, 8))], ids=str)
@pytest.mark.parametrize("takes_controls", [True, False])
def test_an_address_that_stays_full_keeps_no_bad_text_from_being_found(
    count: int, bounds: Bounds, takes_controls: bool
) -> None:
    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        is_taken = not names or (takes_controls and CONTROL in names)
        if address == "b":
            return None if is_taken else ServiceOverloaded("429", 2.0)
        return ModelFailed("500") if "3" in names else None

    found = run(service, texts(count), bounds=bounds, addresses=("a", "b"))

    assert_each_once(found, count, {"3"})
    assert found.ended_s <= 90


@pytest.mark.parametrize("count", [2, 4, 6, 14])
def test_two_failures_by_chance_blame_nobody_at_the_begin_of_a_run(count: int) -> None:
    calls = itertools.count()
    last = str(count - 1)

    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        # The first request, and the last text when it is sent by itself.
        fails = bool(names) and (next(calls) == 0 or tuple(names) in fragile)
        fragile.discard(tuple(names))
        return ModelFailed("500") if fails else None

    fragile = {(last,)}
    found = run(service, texts(count), bounds=Bounds(count, 1))

    assert fragile == set()
    assert_each_once(found, count)


def test_a_bad_text_is_found_where_several_addresses_share_the_work() -> None:
    found = run(poisoned(77), texts(4000), bounds=Bounds(8, 4), addresses=("a", "b", "c"))

    assert_each_once(found, 4000, {"77"})


def test_an_address_that_is_full_is_left_alone_while_others_work() -> None:
    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        return ServiceOverloaded("429", 3.0) if address == "b" else None

    found = run(service, texts(800), bounds=Bounds(8, 4), addresses=("a", "b"))

    assert_each_once(found, 800)
    assert sum(address == "b" for address, _ in found.requests) <= 4 * (found.ended_s / 3 + 1)


@pytest.mark.parametrize("error", [WrongSpace("another model"), VectorsDrifted("0.98")])
def test_an_address_that_comes_back_as_another_service_stops_the_run(error: EmbeddingError) -> None:
    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        if 0.5 <= at_s < 3:
            return ServiceUnavailable("refused")
        return error if at_s >= 3 and not names else None

    found = run(service, texts(4000), bounds=Bounds(8, 2))

    assert found.dispatch.failure is error
    # It is of the canary.
    assert not hasattr(error, "__notes__")


def failing_by_chance(seed: int) -> Service:
    chance = random.Random(seed)
    kinds = [ModelFailed, ServiceUnavailable, ServiceUnavailable, RequestTimedOut]

    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        return chance.choice(kinds)("by chance") if chance.random() < 0.1 else None

    return service


def test_only_requests_as_large_as_the_pace_asks_for_measure_it() -> None:
    now_s, dispatch = 0.0, Dispatch(
        iter(texts(20)), 20, ("a",), fixed(Bounds(8, 1), timeout_s=30), False,
        BacklogSteps.read(USUAL_STEPS), Limits(64, 1 << 30, outage_s=1000), jitter=lambda: 1.0,
    )  # fmt: skip
    seen = list[tuple[int, bool]]()
    while not dispatch.is_done:
        now_s += 1
        match dispatch.next_request(now_s):
            case Request() as request:
                names = {text.text_hash for text in request.batch.texts}
                seen.append((len(names), request.is_usual))
                if "11" in names:
                    dispatch.failed(request, ModelFailed("500"), now_s)
                else:
                    dispatch.answered(request, 1, now_s)
            case Probe() as probe:
                dispatch.probed(probe, None, now_s)
            case None:
                pass

    # Two fresh ones, the second whole once more; the other fresh ones are few.
    assert sorted(size for size, is_usual in seen if is_usual) == [4, 8, 8, 8]
    assert {size for size, is_usual in seen if not is_usual} <= {1, 2, 4, 5, 6}


@pytest.mark.parametrize("adaptive", [False, True], ids=["fixed", "adaptive"])
@pytest.mark.parametrize("seed", range(5))
def test_a_tenth_of_all_requests_failing_at_random_loses_nothing_and_blames_nobody(
    seed: int, adaptive: bool
) -> None:
    found = run(failing_by_chance(seed), texts(2000), bounds=Bounds(8, 4), adaptive=adaptive)

    sent = sum(len(names) for _, names in found.requests)
    assert_each_once(found, 2000)
    assert sent <= 1.3 * 2000
    assert len(found.requests) <= 1.3 * 2000 / 8


@pytest.mark.parametrize("seed", range(12))
def test_pauses_after_failures_are_not_taken_for_a_slow_pace(seed: int) -> None:
    found = run(
        failing_by_chance(seed), texts(2000), bounds=Bounds(8, 4), adaptive=True, timeout_s=1,
        outage_s=20,
    )  # fmt: skip

    assert_each_once(found, 2000)
    assert len(found.requests) <= 1.5 * 2000 / 8


@pytest.mark.parametrize("bounds", [Bounds(1, 1), Bounds(3, 2), Bounds(8, 4)])
def test_no_more_texts_are_unkept_than_two_rounds_of_requests(bounds: Bounds) -> None:
    chance = random.Random(7)

    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        return ModelFailed("by chance") if chance.random() < 0.2 else None

    found = run(service, texts(500), bounds=bounds)

    assert found.most_unkept <= 2 * bounds.batch_size * bounds.parallel_batches


def test_where_the_service_fails_at_most_texts_the_texts_are_not_blamed() -> None:
    found = run(
        lambda address, names, at_s: ModelFailed("500") if names else None,
        texts(200), bounds=Bounds(8, 2), outage_s=600,
    )  # fmt: skip

    assert isinstance(found.dispatch.failure, ModelFailed)
    assert "it is not the texts" in str(found.dispatch.failure)


@pytest.mark.parametrize("error", [ServiceOverloaded, ServiceUnavailable, ModelFailed])
@pytest.mark.parametrize("count", [1, 4])
def test_a_failure_says_how_often_the_texts_were_tried_that_failed_last(
    error: type[EmbeddingError], count: int
) -> None:
    found = run(
        lambda address, names, at_s: error("no") if names else None,
        texts(count), bounds=Bounds(8, 1), outage_s=20,
    )  # fmt: skip

    assert found.dispatch.failure is not None
    sent = [names for _, names in found.requests]
    others = f" and {len(sent[-1]) - 1} more" if len(sent[-1]) > 1 else ""
    tries = sum(set(sent[-1]) <= set(names) for names in sent)
    assert found.dispatch.failure.__notes__ == [
        f"failed last: text {sent[-1][0]}{others}, at try {tries}"
    ]
    assert tries > 1


def test_texts_that_failed_in_earlier_runs_may_fail_again_without_ending_this_one() -> None:
    wanted = texts(12)
    doubted = [text.text_hash for text in wanted]

    found = run(
        lambda address, names, at_s: ModelFailed("500") if names else None,
        wanted, bounds=Bounds(8, 2), outage_s=600, doubted=doubted,
    )  # fmt: skip

    assert found.dispatch.failure is None
    assert sorted(found.rejected) == sorted(doubted)
    # The service was wrong for everything: that is no further reason not to send them again.
    assert [each.attempts for each in found.dispatch.rejections] == [0] * 12


@pytest.mark.parametrize("wait_s", [2.0, 60.0])
def test_a_batch_that_failed_once_waits_for_nobody_while_others_are_able(wait_s: float) -> None:
    failed: list[str] = []

    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        if address == "b":
            return ServiceOverloaded("full", wait_s)
        if names and not failed:
            failed.append(address)
            return ServiceUnavailable("reset")
        return None

    found = run(service, texts(400), bounds=Bounds(8, 2), addresses=("a", "b"), outage_s=300)

    assert failed == ["a"]
    assert found.dispatch.failure is None
    assert len(found.embedded) == 400
    assert found.ended_s < 30
