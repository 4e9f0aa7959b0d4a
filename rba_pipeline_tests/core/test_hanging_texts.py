"""What gets no answer within its time-out, at the time-outs that runs have, in simulated time."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from rba_pipeline.core.errors import (
    EmbeddingError,
    ModelFailed,
    RequestTimedOut,
    ServiceUnavailable,
)
from rba_pipeline.core.presets import Bounds
from rba_pipeline.core.recovery import Batch, Recovery, Seen, after_loss
from rba_pipeline_tests.core.simulated_run import Run, Service, run, texts

# As a run is launched by default.
TIMEOUT_S, OUTAGE_S = 240.0, 300.0
SETTINGS = [(32, 8), (8, 4), (1, 1)]


def run_as_usual(
    service: Service,
    count: int,
    size: int,
    parallel: int,
    *,
    adaptive: bool = True,
    addresses: Sequence[str] = ("a",),
    seconds_per_text: float = 0.0,
) -> Run:
    return run(
        service, texts(count), bounds=Bounds(size, parallel), addresses=addresses,
        timeout_s=TIMEOUT_S, outage_s=OUTAGE_S, adaptive=adaptive,
        seconds_per_text=seconds_per_text,
    )  # fmt: skip


def assert_embedded_but(found: Run, count: int, rejected: set[str]) -> None:
    assert found.dispatch.failure is None
    assert set(found.rejected) == rejected
    assert sorted([*found.embedded, *rejected]) == sorted(map(str, range(count)))


@pytest.mark.parametrize("addresses", [("a",), ("a", "b"), ("a", "b", "c", "d")], ids=len)
@pytest.mark.parametrize("adaptive", [False, True], ids=["fixed", "adaptive"])
@pytest.mark.parametrize("count", [2, 40, 3000])
@pytest.mark.parametrize(("size", "parallel"), SETTINGS)
def test_a_text_that_hangs_is_found_and_its_neighbours_are_embedded(
    size: int, parallel: int, count: int, adaptive: bool, addresses: Sequence[str]
) -> None:
    for bad in {0, count // 2, count - 1}:

        def service(
            address: str, names: Sequence[str], at_s: float, bad: str = str(bad)
        ) -> EmbeddingError | None:
            return RequestTimedOut("240 s") if bad in names else None

        found = run_as_usual(service, count, size, parallel, adaptive=adaptive, addresses=addresses)

        assert_embedded_but(found, count, {str(bad)})
        assert found.rejected == {str(bad): "timed_out"}
        # Once per halving, four times alone, and where nobody saw whose doing it was.
        tried = sum(str(bad) in names for _, names in found.requests)
        assert tried <= 5 + 4 + 2 + len(addresses) - 1


@pytest.mark.parametrize(
    ("losses", "reason"),
    [("THTH", "timed_out"), ("TTTH", "timed_out"), ("HHHT", "connection_lost")],
)
def test_what_is_said_of_a_text_is_what_befell_it_most_often(losses: str, reason: str) -> None:
    """T for a time-out, H for a hang-up: either may once be chance."""
    seen = Seen("a", at_s=1.0, answers=1, proofs=1, addresses=frozenset({"a"}))
    then = Recovery((Batch((texts(1)[0],)),))

    for loss in losses:
        (batch,) = then.batches
        then = after_loss(batch, seen, timed_out=loss == "T", is_alone=True, others_answered=True)

    assert then.suspect is not None
    assert (then.suspect.reason, then.suspect.attempts) == (reason, 4)
    assert then.suspect.again().time_outs == (4 if reason == "timed_out" else 0)


def test_before_a_text_is_blamed_it_is_asked_for_where_its_loss_may_have_been_others_doing() -> (
    None
):
    seen = Seen("sick", at_s=1.0, answers=1, proofs=1, addresses=frozenset({"sick", "well"}))
    then = after_loss(
        Batch((texts(1)[0],)), replace(seen, address="well"),
        timed_out=False, is_alone=False, others_answered=True,
    )  # fmt: skip

    for _ in range(4):
        (batch,) = then.batches
        then = after_loss(batch, seen, timed_out=True, is_alone=True, others_answered=True)

    assert then.suspect is None
    (batch,) = then.batches
    assert batch.failed_at == {"sick"}


@pytest.mark.parametrize("count", [1, 2, 8])
def test_an_address_that_hangs_at_its_probes_holds_up_nobody_who_is_well(count: int) -> None:
    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        if address == "hangs":
            return RequestTimedOut("240 s")
        return ModelFailed("500") if "0" in names else None

    found = run_as_usual(service, count, 8, 2, addresses=("well", "hangs"))

    assert_embedded_but(found, count, {"0"})
    # The one request that was sent there has its whole time-out, and no probe has.
    assert found.ended_s < TIMEOUT_S + 30


@pytest.mark.parametrize("addresses", [("slow", "away"), ("away", "slow")], ids="-".join)
@pytest.mark.parametrize("parallel", [1, 2, 4])
def test_who_is_slow_is_waited_for_while_another_address_is_away(
    parallel: int, addresses: Sequence[str]
) -> None:
    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        return ServiceUnavailable("refused") if address == "away" else None

    found = run(
        service, texts(64), bounds=Bounds(8, parallel), addresses=addresses,
        timeout_s=3600, outage_s=OUTAGE_S, seconds_per_text=50,
    )  # fmt: skip

    assert_embedded_but(found, 64, set())


@pytest.mark.parametrize("texts_per_s", [0.12, 0.05, 0.02])
@pytest.mark.parametrize("adaptive", [False, True], ids=["fixed", "adaptive"])
@pytest.mark.parametrize(("size", "parallel"), [(32, 8), (32, 2), (8, 4)])
def test_a_service_too_slow_for_full_requests_gets_smaller_ones(
    size: int, parallel: int, adaptive: bool, texts_per_s: float
) -> None:
    found = run_as_usual(
        lambda address, names, at_s: None, 400, size, parallel, adaptive=adaptive,
        seconds_per_text=1 / texts_per_s,
    )  # fmt: skip

    assert_embedded_but(found, 400, set())


@pytest.mark.parametrize("count", [1, 8, 400])
@pytest.mark.parametrize("begins_s", [0.0, 0.35])
@pytest.mark.parametrize("error", [ModelFailed, RequestTimedOut])
@pytest.mark.parametrize(("size", "parallel"), SETTINGS)
def test_a_service_that_is_well_at_its_canary_alone_ends_the_run_and_blames_nobody(
    size: int, parallel: int, error: type[EmbeddingError], begins_s: float, count: int
) -> None:
    def service(address: str, names: Sequence[str], at_s: float) -> EmbeddingError | None:
        return error("wrong") if names and at_s >= begins_s else None

    found = run_as_usual(service, count, size, parallel)

    if count > len(found.embedded):
        assert found.dispatch.failure is not None
    assert found.rejected == {}
    # What was in flight, and a control, which is sent alone, each for its whole time-out.
    assert found.ended_s <= OUTAGE_S + 5 * TIMEOUT_S
