"""Nobody is blamed for a service that is wrong, in simulated time: what a probe does not show."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from rba_pipeline.core.blame import MOST_BY_CONTROLS, MOST_SUSPECTS, Blame
from rba_pipeline.core.embeddings import Text, as_long_as, by_similar_length
from rba_pipeline.core.errors import (
    EmbeddingError,
    ModelFailed,
    NotAllowed,
    RequestRejected,
    RequestTimedOut,
    RequestTooLarge,
    ServiceOverloaded,
    ServiceUnavailable,
    TextRejected,
)
from rba_pipeline.core.presets import Bounds
from rba_pipeline.core.recovery import Batch, Suspect
from rba_pipeline_tests.core.simulated_run import (
    CONTROL,
    LONG_CONTROL,
    TIMEOUT_S,
    Service,
    run,
    texts,
)

ERRORS = {
    "500": ModelFailed("500"),
    "lost": ServiceUnavailable("reset"),
    "timed-out": RequestTimedOut("30 s"),
    "413": RequestTooLarge("413", "too_large"),
    "422": TextRejected("422", 0, "text_empty"),
}
FAILS = ERRORS["500"]
REASONS = {
    "500": "model_failed",
    "lost": "connection_lost",
    "timed-out": "timed_out",
    "413": "too_large",
    "422": "text_empty",
}


def fails_at_all_but(*good: str, error: EmbeddingError, since_s: float = 0.0) -> Service:
    """Return a service that is well at its canary, and at the texts ``good``."""

    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        return error if at_s >= since_s and set(names) - set(good) else None

    return service


@pytest.mark.parametrize("bounds", [Bounds(1, 1), Bounds(8, 2), Bounds(32, 8)], ids=str)
@pytest.mark.parametrize("count", [1, 2, 6, 8, 9, 2000])
@pytest.mark.parametrize("kind", ERRORS)
def test_a_service_that_embeds_nothing_but_its_canary_has_no_text_blamed(
    kind: str, count: int, bounds: Bounds
) -> None:
    found = run(fails_at_all_but(error=ERRORS[kind]), texts(count), bounds=bounds, outage_s=300)

    assert found.dispatch.failure is not None
    assert found.rejected == {}
    assert found.calls <= 110
    # Three controls at most, after pauses.
    assert found.ended_s <= 300 + 3 * (10 + TIMEOUT_S * (kind == "timed-out")) + TIMEOUT_S
    if kind in ("413", "422"):
        assert isinstance(found.dispatch.failure, RequestRejected)
        assert "at a harmless one, and embedded 0: it is not the texts" in str(
            found.dispatch.failure
        )
        assert found.calls <= 2 + bounds.parallel_batches * 6


@pytest.mark.parametrize("kind", ["500", "lost", "timed-out"])
def test_a_service_that_goes_wrong_for_all_but_its_canary_has_no_text_blamed(kind: str) -> None:
    found = run(
        fails_at_all_but(error=ERRORS[kind], since_s=0.35),
        texts(10), bounds=Bounds(1, 2), outage_s=300,
    )  # fmt: skip

    assert isinstance(found.dispatch.failure, ModelFailed)
    assert "and embedded 8: it is not the texts" in str(found.dispatch.failure)
    assert found.rejected == {}


@pytest.mark.parametrize("count", [1, 2, 8, 9, MOST_BY_CONTROLS])
@pytest.mark.parametrize("kind", ERRORS)
def test_texts_that_are_all_at_fault_are_blamed_where_a_harmless_one_is_embedded(
    kind: str, count: int
) -> None:
    found = run(
        fails_at_all_but(CONTROL, error=ERRORS[kind]), texts(count), bounds=Bounds(8, 2),
        outage_s=600,
    )  # fmt: skip

    assert found.dispatch.failure is None
    assert found.rejected == {str(number): REASONS[kind] for number in range(count)}
    assert found.controls >= (1 if kind in ("413", "422") else math.ceil(count / 9))


@pytest.mark.parametrize("kind", ["500", "lost", "timed-out"])
def test_more_texts_than_controls_vouch_for_end_the_run_and_none_is_blamed(kind: str) -> None:
    found = run(
        fails_at_all_but(CONTROL, error=ERRORS[kind]), texts(2000), bounds=Bounds(8, 2),
        outage_s=600,
    )  # fmt: skip

    assert isinstance(found.dispatch.failure, ModelFailed)
    assert "no more are blamed in one run" in str(found.dispatch.failure)
    assert "run the partition again" in str(found.dispatch.failure)
    # The next run is to doubt them, and nothing is held against them.
    assert len(found.rejected) > MOST_BY_CONTROLS
    assert {each.attempts for each in found.dispatch.rejections} == {0}
    assert len(found.requests) <= 12 * MOST_BY_CONTROLS


def test_a_run_that_goes_on_after_another_ends_as_one_that_did_it_all() -> None:
    wanted, bad = texts(1000), {str(14 * number) for number in range(71)}
    service = fails_at_all_but(CONTROL, *({each.text_hash for each in wanted} - bad), error=FAILS)
    at_once = run(service, wanted, bounds=Bounds(8, 4))
    left = [each for each in wanted if each.text_hash in bad]
    resumed = run(service, left, bounds=Bounds(8, 4), embedded_before=929)

    assert at_once.dispatch.failure is resumed.dispatch.failure is None
    assert set(at_once.rejected) == set(resumed.rejected) == bad
    assert {each.attempts > 0 for each in resumed.dispatch.rejections} == {True}


@pytest.mark.parametrize("bad", [70, 200])
def test_more_texts_at_fault_than_one_run_blames_are_put_aside_by_some_more(bad: int) -> None:
    wanted = texts(bad + 25)
    service = fails_at_all_but(
        CONTROL, *(each.text_hash for each in wanted[bad:]), error=FAILS
    )  # fmt: skip
    doubted, runs = set[str](), 0
    while True:
        found = run(service, wanted, bounds=Bounds(8, 4), doubted=doubted, outage_s=600)
        doubted, runs = doubted | set(found.rejected), runs + 1
        embedded = set(found.embedded)
        wanted = [each for each in wanted if each.text_hash not in embedded]
        if found.dispatch.failure is None:
            break

    assert runs <= 2 + bad // MOST_BY_CONTROLS
    assert set(found.rejected) == {str(number) for number in range(bad)}


@pytest.mark.parametrize("kind", ["500", "lost", "timed-out"])
def test_texts_blamed_by_controls_are_blamed_no_more_once_controls_fail(kind: str) -> None:
    controls = itertools.count()

    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        is_well = not names or (CONTROL in names and next(controls) < 2)
        return None if is_well else ERRORS[kind]

    found = run(service, texts(64), bounds=Bounds(8, 2), outage_s=6000)

    assert isinstance(found.dispatch.failure, ModelFailed)
    assert "and at a harmless one, and embedded 0: it is not the texts" in str(
        found.dispatch.failure
    )
    assert found.rejected == {}


def test_texts_that_a_service_refuses_cost_a_control_for_every_eight() -> None:
    good = {str(number) for number in range(50, 100)}

    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        bad = [place for place, name in enumerate(names) if name not in {*good, CONTROL}]
        return TextRejected("422", bad[0], "text_too_long") if bad else None

    found = run(service, texts(100), bounds=Bounds(8, 2))

    assert found.dispatch.failure is None
    assert len(found.rejected) == 50
    assert set(found.embedded) == good
    assert found.controls <= math.ceil(50 / 8)


@pytest.mark.parametrize("is_bad", [lambda n: n < 300, lambda n: n % 4 == 0], ids=["first", "each"])
def test_however_many_are_refused_the_others_are_embedded_by_one_run(
    is_bad: Callable[[int], bool],
) -> None:
    bad = {str(number) for number in range(2000) if is_bad(number)}

    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        places = [place for place, name in enumerate(names) if name in bad]
        return TextRejected("422", places[0], "text_too_long") if places else None

    found = run(service, texts(2000), bounds=Bounds(32, 8))

    assert found.dispatch.failure is None
    assert found.rejected.keys() == bad
    assert len(found.embedded) == 2000 - len(bad)


@pytest.mark.parametrize("refused", [8, 9, 12])
def test_beside_refused_texts_a_longer_one_that_fails_is_found(refused: int) -> None:
    usual, long, longest = of_tokens(100), of_tokens(1500), of_tokens(2000)
    kinds = [usual] * 500 + [long] * refused + [usual] * 100 + [longest] + [usual] * 500
    wanted = [replace(kind, text_hash=str(number)) for number, kind in enumerate(kinds)]
    too_long = {each.text_hash for each in wanted if each.tokens == 1500}
    (failing,) = (each.text_hash for each in wanted if each.tokens == 2000)

    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        places = [place for place, name in enumerate(names) if name in {*too_long, LONG_CONTROL}]
        if places:
            return TextRejected("422", places[0], "text_too_long")
        return FAILS if failing in names else None

    found = run(
        service, wanted, bounds=Bounds(32, 4), long_characters=len(long.text)
    )  # fmt: skip

    assert found.dispatch.failure is None
    assert found.rejected.keys() == {*too_long, failing}
    assert len(found.embedded) == 1100


@pytest.mark.parametrize("kind", ["413", "422"])
def test_a_service_that_comes_to_refuse_every_text_ends_the_run(kind: str) -> None:
    wanted = texts(2000)
    good = (each.text_hash for each in wanted[:32])
    found = run(fails_at_all_but(*good, error=ERRORS[kind]), wanted, bounds=Bounds(32, 2))

    assert isinstance(found.dispatch.failure, RequestRejected)
    assert "at a harmless one, and embedded 32: it is not the texts" in str(found.dispatch.failure)
    assert len(found.embedded) == 32
    assert found.rejected == {}


def test_a_request_that_somebody_on_the_way_refuses_is_halved_and_blames_nobody() -> None:
    between = RequestTooLarge("413 from a proxy")
    some = run(
        lambda address, names, at_s: between if len(names) > 3 else None,
        texts(16), bounds=Bounds(16, 2),
    )  # fmt: skip
    one = run(
        lambda address, names, at_s: between if "5" in names else None,
        texts(16), bounds=Bounds(16, 2),
    )  # fmt: skip

    assert some.dispatch.failure is None
    assert len(some.embedded) == 16
    assert one.dispatch.failure is between
    assert one.rejected == {}


def test_a_control_that_meets_a_full_service_is_sent_again() -> None:
    full = iter([True] * 4)

    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        if CONTROL in names:
            return ServiceOverloaded("429", 1.0) if next(full, False) else None
        return ModelFailed("500") if names else None

    found = run(service, texts(1), bounds=Bounds(8, 2))

    assert found.dispatch.failure is None
    assert found.rejected == {"0": "model_failed"}
    assert found.controls == 5


@pytest.mark.parametrize(("full", "is_found", "controls"), [(2, True, 4), (10**6, False, 3)])
def test_a_control_after_the_outages_time_may_meet_a_full_service_twice(
    full: int, is_found: bool, controls: int
) -> None:
    left = iter(range(full))

    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        if CONTROL in names:
            return ServiceOverloaded("429", 1.0) if next(left, None) is not None else None
        return RequestTimedOut("no answer") if "7" in names else None

    found = run(service, texts(20), bounds=Bounds(8, 4), outage_s=300, timeout_s=240)

    assert found.rejected == ({"7": "timed_out"} if is_found else {})
    assert isinstance(found.dispatch.failure, ServiceOverloaded) is not is_found
    assert len(found.embedded) == 19
    assert found.controls == controls


def test_a_control_that_fails_by_chance_is_sent_again() -> None:
    fails = iter([True] * 2)

    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        if CONTROL in names and not next(fails, False):
            return None
        return ModelFailed("500") if names else None

    found = run(service, texts(1), bounds=Bounds(8, 2))

    assert found.dispatch.failure is None
    assert found.rejected == {"0": "model_failed"}


def test_a_control_that_no_service_can_mend_ends_the_run() -> None:
    refused = NotAllowed("401")

    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        if CONTROL in names:
            return refused
        return ModelFailed("500") if names else None

    found = run(service, texts(1), bounds=Bounds(8, 2))

    assert found.dispatch.failure is refused


def of_tokens(tokens: int) -> Text:
    return Text(str(tokens), "a " * tokens, tokens)


def test_a_text_is_put_aside_after_another_as_long_was_embedded_since_it_failed() -> None:
    blame = Blame()
    blame.answered(Batch((of_tokens(1000),)), 0.0)
    for tokens in (10, 100):
        blame.suspect(Suspect(of_tokens(tokens), "model_failed", 3, alone=2, since=1))
    found = []
    for answer in (of_tokens(9), of_tokens(10), of_tokens(99), of_tokens(100)):
        blame.answered(Batch((answer,)), 0.0)
        blame.judge((), is_last=True)
        found.append([each.text_hash for each in blame.rejections])

    assert found == [[], ["10"], ["10"], ["10", "100"]]


def test_an_answer_to_what_was_sent_before_a_text_failed_proves_nothing() -> None:
    blame = Blame()
    blame.suspect(Suspect(of_tokens(10), "model_failed", 3, alone=2, failed_at_s=5.0))
    found = []
    for sent_at_s in (4.9, 5.0):
        blame.answered(Batch((of_tokens(1000),)), sent_at_s)
        blame.judge((), is_last=True)
        found.append(len(blame.rejections))

    assert found == [0, 1]


def test_a_control_is_as_long_as_the_longest_suspect_and_proves_nothing_of_longer_ones() -> None:
    blame = Blame()
    blame.answered(Batch((of_tokens(50),)), 0.0)
    for tokens in (10, 100):
        blame.suspect(Suspect(of_tokens(tokens), "model_failed", 3, alone=2, since=1))
    control = blame.control(0.0)
    blame.suspect(Suspect(of_tokens(1000), "model_failed", 3, alone=2, since=1))
    blame.probed(is_control=True)
    blame.judge((), is_last=True)

    assert control == as_long_as(of_tokens(100))
    assert [each.text_hash for each in blame.rejections] == ["10", "100"]


def test_eight_texts_take_one_more_control_whatever_else_was_embedded() -> None:
    blame = Blame()
    for number in range(MOST_SUSPECTS + 1):
        doubtful_before = blame.is_doubtful
        text = Text(str(number), "a " * 100, 100)
        blame.suspect(Suspect(text, "model_failed", 3, alone=2))
        blame.answered(Batch((of_tokens(1000),) * 100), 0.0)

    assert not doubtful_before
    assert blame.is_doubtful
    assert blame.judge((), is_last=True) == blame.rejections == []
    blame.probed(is_control=True)
    assert not blame.is_doubtful
    blame.judge((), is_last=True)
    assert len(blame.rejections) == MOST_SUSPECTS + 1


@pytest.mark.parametrize(("bad", "controls"), [(0, 1), (50, 0)], ids=["longest", "another"])
def test_one_bad_text_costs_a_control_only_if_none_as_long_was_embedded_since(
    bad: int, controls: int
) -> None:
    longest, *others = texts(400)
    wanted = [replace(longest, tokens=11), *others]
    found = run(
        lambda address, names, at_s: FAILS if str(bad) in names else None,
        wanted, bounds=Bounds(8, 2),
    )  # fmt: skip

    assert found.dispatch.failure is None
    assert found.rejected == {str(bad): "model_failed"}
    assert found.controls == controls


@pytest.mark.parametrize("is_sorted", [True, False])
@pytest.mark.parametrize("share", [2, 20, 100])
@pytest.mark.parametrize("since_s", [0.15, 1.0])
@pytest.mark.parametrize("kind", ["500", "lost", "timed-out"])
def test_a_service_that_goes_wrong_for_long_texts_has_none_of_them_blamed(
    kind: str, since_s: float, share: int, is_sorted: bool
) -> None:
    wanted = [Text(str(n), "a", 60 if n % share else 100) for n in range(600)]
    long = {each.text_hash for each in wanted if each.tokens == 100} | {CONTROL}
    if is_sorted:
        wanted = list(by_similar_length(wanted, 64))
    found = run(
        lambda address, names, at_s: ERRORS[kind] if at_s > since_s and long & set(names) else None,
        wanted, bounds=Bounds(8, 4), outage_s=6000,
    )  # fmt: skip

    assert isinstance(found.dispatch.failure, ModelFailed)
    assert "it is not the texts" in str(found.dispatch.failure)
    assert found.rejected == {}


def fails_at_length(kind: str, characters: int) -> Callable[[list[Text]], Service]:
    """Return how to make a service that fails at texts, and controls, of so many characters."""

    def of(wanted: list[Text]) -> Service:
        long = {each.text_hash for each in wanted if len(each.text) >= characters}
        return lambda _, names, __: ERRORS[kind] if (long | {LONG_CONTROL}) & set(names) else None

    return of


@pytest.mark.parametrize("bounds", [Bounds(8, 1), Bounds(8, 2), Bounds(32, 8)], ids=str)
@pytest.mark.parametrize("good", [0, 1, 100])
@pytest.mark.parametrize("kind", ["500", "lost", "timed-out", "413"])
def test_a_text_that_fails_for_its_length_is_put_aside_and_its_neighbours_are_embedded(
    kind: str, good: int, bounds: Bounds
) -> None:
    wanted = [Text("long", "a" * 4000, 1000), *texts(good)]
    found = run(
        fails_at_length(kind, 3000)(wanted), wanted, bounds=bounds, outage_s=6000,
        embedded_before=0 if good else 100, long_characters=3000,
    )  # fmt: skip

    assert found.dispatch.failure is None
    assert sorted(found.embedded) == sorted(each.text_hash for each in wanted[1:])
    assert found.rejected == {"long": REASONS[kind]}


def test_texts_that_fail_for_their_length_are_not_blamed_where_they_are_many() -> None:
    wanted = [*(Text(f"long{n}", "a" * 4000, 1000) for n in range(MOST_SUSPECTS + 1)), *texts(100)]
    found = run(
        fails_at_length("500", 3000)(wanted), wanted, bounds=Bounds(8, 2), outage_s=6000,
        long_characters=3000,
    )  # fmt: skip

    assert isinstance(found.dispatch.failure, ModelFailed)
    assert "it is not the texts" in str(found.dispatch.failure)
    assert found.rejected == {}


def test_where_it_is_not_the_texts_only_those_are_kept_that_the_service_named() -> None:
    controls = itertools.count()

    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        if "3" in names:
            return TextRejected("422", names.index("3"), "text_empty")
        is_well = not names or (CONTROL in names and next(controls) < 2)
        return None if is_well else FAILS

    found = run(service, texts(60), bounds=Bounds(1, 1), outage_s=6000)

    assert found.embedded == []
    assert "it is not the texts" in str(found.dispatch.failure)
    assert found.rejected == {"3": "text_empty"}


@pytest.mark.parametrize("others", [[], ["b"]], ids=["one", "two"])
def test_a_control_that_cannot_be_had_holds_a_run_up_no_longer_than_an_outage(
    others: list[str],
) -> None:
    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        if CONTROL in names:
            return ServiceOverloaded("429", 5.0)
        return FAILS if "0" in names else None

    wanted = [Text(str(number), "a", 100 - number) for number in range(20)]
    found = run(service, wanted, bounds=Bounds(8, 2), addresses=["a", *others], outage_s=60)

    assert isinstance(found.dispatch.failure, ServiceOverloaded)
    assert found.rejected == {}
    assert found.ended_s <= 60 + 30


@pytest.mark.parametrize("seconds_away", [5.0, 10.0, 20.0])
def test_what_fails_at_one_address_is_sent_to_one_that_comes_back_before_it_is_blamed(
    seconds_away: float,
) -> None:
    long = {text.text_hash for text in texts(20)}

    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        if address == "b":
            return ERRORS["lost"] if at_s < seconds_away else None
        return FAILS if long & set(names) or CONTROL in names else None

    wanted = [replace(text, tokens=500) if text.text_hash in long else text for text in texts(420)]
    found = run(service, wanted, bounds=Bounds(8, 4), addresses=("a", "b"), outage_s=300)

    assert found.dispatch.failure is None
    assert found.rejected == {}
    assert len(found.embedded) == len(set(found.embedded)) == 420


@pytest.mark.parametrize("addresses", [("a", "b"), ("b", "a")], ids=str)
@pytest.mark.parametrize("bounds", [Bounds(8, 1), Bounds(8, 4), Bounds(32, 8)], ids=str)
def test_a_neighbour_of_a_bad_text_is_not_blamed_for_an_address_that_fails_inside(
    addresses: tuple[str, ...], bounds: Bounds
) -> None:
    """Its group failed where all is well, and alone it fails where nothing is."""
    for bad in map(str, range(0, 40, 3)):

        def service(
            address: str, names: Sequence[str], at_s: float, bad: str = bad
        ) -> EmbeddingError | None:
            return FAILS if bad in names or (names and address != "a") else None

        found = run(service, texts(40), bounds=bounds, addresses=addresses, outage_s=300)

        assert found.dispatch.failure is None
        assert found.rejected == {bad: "model_failed"}


def test_a_text_that_is_lost_as_others_were_by_chance_is_sent_again() -> None:
    (text, good), blame = texts(2), Blame()
    blame.suspect(Suspect(text, "connection_lost", 4, alone=4))
    blame.answered(Batch((good,), losses=2, own_losses=2), 0.0)

    again = blame.judge((), is_last=True)

    assert blame.chance == 3 / 4
    assert again == [Batch((text,), losses=4, own_losses=4)]
    assert blame.rejections == []
