"""Who gets the next request, and who is left out."""

from dataclasses import replace

import pytest

from rba_pipeline.core.presets import Bounds
from rba_pipeline.core.replicas import LONGEST_PAUSE_S, Replica, chosen
from rba_pipeline_tests.core.simulated_run import run, texts


def served(address: str, tokens_per_second: float) -> Replica:
    """Return an address that has answered one request at this speed."""
    return Replica(address).sent(100).answered(100, 100, 100 / tokens_per_second)


def test_an_address_gets_work_in_proportion_to_its_measured_speed() -> None:
    replicas = {"slow": served("slow", 100), "fast": served("fast", 300)}
    for _ in range(40):
        replica = chosen(replicas.values(), 0.0)
        assert replica is not None
        replicas[replica.address] = replica.sent(100)

    assert (replicas["slow"].requests, replicas["fast"].requests) == (10, 30)


def test_speed_is_what_was_in_flight_over_how_long_it_took() -> None:
    # Two requests of 100 tokens at once, each answered after a second: 200 tokens per second.
    first = Replica("a").sent(100)
    both = first.sent(100)

    assert both.answered(100, both.tokens, 1.0).rate == 200


def test_an_address_of_unknown_speed_is_tried() -> None:
    busy = served("a", 100).sent(100)

    assert chosen([busy, Replica("b")], 0.0) == Replica("b")


def test_of_idle_addresses_one_that_is_new_comes_first_and_then_the_fastest() -> None:
    slow, fast, new = served("a", 10), served("b", 1000), Replica("c")

    assert chosen([slow, fast, new], 0.0) == new
    assert chosen([slow, fast, once := replace(new, failures=1)], 0.0) == once
    assert chosen([slow, fast, replace(new, failures=2)], 0.0) == fast
    assert chosen([slow, fast], 0.0) == fast


@pytest.mark.parametrize("addresses", [("slow", "fast"), ("fast", "slow")])
def test_one_request_at_a_time_goes_to_the_fastest_address_in_whatever_order_they_are(
    addresses: tuple[str, str],
) -> None:
    finished = run(
        lambda address, names, now_s: None,
        texts(200),
        addresses=addresses,
        bounds=Bounds(4, 1),
        slow={"slow": 10.0},
    )

    assert len(finished.embedded) == 200
    assert [address for address, _ in finished.requests].count("slow") == 1


@pytest.mark.parametrize(
    "replica",
    [
        pytest.param(Replica("a", out_until_s=0.0), id="left-out"),
        pytest.param(Replica("a", held_until_s=5.0), id="full"),
        pytest.param(Replica("a", failures=1).sent(10), id="tried-for-the-first-time-since"),
    ],
)
def test_who_may_not_get_a_request_gets_none(replica: Replica) -> None:
    assert chosen([replica], 4.0) is None


def test_one_that_is_back_is_tried_beside_what_hangs_there_since_before() -> None:
    back = Replica("a").sent(10).sent(10).failed(10, 0.0, wait_s=0.0).probed(1.0, is_well=True)

    assert chosen([back], 1.0) == back
    assert chosen([tried := back.sent(10)], 1.0) is None
    assert not tried.is_reserved
    assert (well := tried.answered(10, 20, 0.1)) == chosen([well], 1.0)


def test_an_address_to_avoid_gets_a_request_only_where_no_other_takes_part() -> None:
    one, other = Replica("a"), Replica("b", held_until_s=5.0)

    assert chosen([one, other], 0.0, avoid={"a"}) is None
    assert chosen([one, other], 5.0, avoid={"a"}) == other
    assert chosen([one, Replica("b", out_until_s=0.0)], 0.0, avoid={"a"}) == one


def test_pauses_double_to_a_longest_one_and_an_answer_begins_anew() -> None:
    replica, now_s, pauses = Replica("a").sent(1).failed(1, 0.0, wait_s=0.0), 0.0, []
    for _ in range(6):
        assert replica.out_until_s is not None
        pauses.append(replica.out_until_s - now_s)
        now_s = replica.out_until_s
        replica = replica.probed(now_s, is_well=False)

    assert pauses == [1, 2, 4, 8, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    well = replica.probed(now_s, is_well=True).sent(1).answered(1, 1, 1.0)
    assert well.sent(1).failed(1, 0.0, wait_s=0.0).out_until_s == 1


def test_the_time_that_an_address_names_is_kept() -> None:
    assert Replica("a").sent(1).failed(1, 10.0, wait_s=7.0).out_until_s == 17


def test_requests_that_were_in_flight_at_one_crash_are_one_failure() -> None:
    crashed = Replica("a").sent(1).sent(1).failed(1, 0.0, wait_s=0.0).failed(1, 0.5, wait_s=0.0)

    assert (crashed.pauses, crashed.out_until_s) == (1, 1.0)


@pytest.mark.parametrize("told_s", [0.0, 5.0])
def test_runs_that_saw_the_same_failure_do_not_come_back_in_one_wave(told_s: float) -> None:
    sent = Replica("a").sent(10)

    first, second = (
        sent.failed(10, 0.0, wait_s=told_s, jitter=jitter).probed(2.0, is_well=False, jitter=jitter)
        for jitter in (1.0, 1.2)
    )

    assert first.out_until_s == 4.0
    assert second.out_until_s == pytest.approx(4.4)
