"""Nobody is blamed for a service that is wrong, in simulated time: what a probe does not show."""

import itertools
import math
from collections.abc import Sequence

import pytest

from rba_pipeline.core.blame import MOST_BY_CONTROLS, MOST_SUSPECTS, Blame
from rba_pipeline.core.embeddings import Text, as_long_as
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
from rba_pipeline_tests.core.simulated_run import CONTROL, TIMEOUT_S, Service, run, texts

ERRORS = {
    "500": ModelFailed("500"),
    "lost": ServiceUnavailable("reset"),
    "timed-out": RequestTimedOut("30 s"),
    "413": RequestTooLarge("413", "too_large"),
    "422": TextRejected("422", 0, "text_empty"),
}
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
    assert "it is not the texts" in str(found.dispatch.failure)
    assert "add the documents of this partition a few at a time" in str(found.dispatch.failure)
    assert found.rejected == {}
    assert len(found.requests) <= 12 * MOST_BY_CONTROLS


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


def test_texts_that_a_service_refuses_before_it_has_embedded_any_cost_one_control() -> None:
    good = {str(number) for number in range(50, 100)}

    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        bad = [place for place, name in enumerate(names) if name not in {*good, CONTROL}]
        return TextRejected("422", bad[0], "text_too_long") if bad else None

    found = run(service, texts(100), bounds=Bounds(8, 2))

    assert found.dispatch.failure is None
    assert len(found.rejected) == 50
    assert set(found.embedded) == good
    assert found.controls == 1


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


def test_a_control_is_as_long_as_the_longest_suspect_but_no_longer_than_what_was_embedded() -> None:
    short, middle, long = (Text(str(size), "a " * size, size) for size in (10, 100, 1000))
    blame = Blame()
    for text in (short, long):
        blame.suspect(Suspect(text, "model_failed", 3, proof=1))

    assert blame.control() == as_long_as(long)
    blame.answered(Batch((middle,)))
    assert blame.control() == as_long_as(middle)


def test_a_control_for_many_suspects_is_as_long_as_they_are_and_vouches_for_some_more() -> None:
    blame = Blame()
    blame.answered(Batch((Text("short", "a", 1),)))
    suspects = [
        Suspect(Text(str(number), "a " * 100, 100), "model_failed", 3, proof=2)
        for number in range(MOST_SUSPECTS + 1)
    ]
    for suspect in suspects[:-1]:
        blame.suspect(suspect)
    doubtful_before = blame.is_doubtful
    blame.suspect(suspects[-1])

    assert not doubtful_before
    assert blame.is_doubtful
    assert blame.control() == as_long_as(suspects[0].text)
    assert blame.judge(is_last=True) == blame.rejections == []
    blame.probed(is_control=True)
    assert not blame.is_doubtful
    blame.judge(is_last=True)
    assert len(blame.rejections) == len(suspects)
