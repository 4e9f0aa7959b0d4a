"""A question to several addresses: in the order of asking, and without those that stall."""

import threading
from collections.abc import Iterator

import pytest

from rba_pipeline.core.errors import (
    ModelFailed,
    NotAllowed,
    RequestTimedOut,
    ServiceOverloaded,
    ServiceUnavailable,
)
from rba_pipeline.resources.address_round import ask_all

LONG_S = 30.0


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_answers_are_in_the_order_of_asking_whoever_was_first(go_on: threading.Event) -> None:
    def ask(address: str) -> str:
        if address == "b":
            go_on.set()
        else:
            go_on.wait(LONG_S)
        return address.upper()

    found = ask_all(["a", "b"], ask, lead_s=LONG_S)

    assert list(found.answers.items()) == [("a", "A"), ("b", "B")]
    assert found.one_answer() == "A"


def test_who_stalls_while_another_answers_is_left_out(go_on: threading.Event) -> None:
    def ask(address: str) -> str:
        if address == "a":
            go_on.wait(LONG_S)
        return address

    found = ask_all(["a", "b"], ask, lead_s=0.05)

    assert not go_on.is_set()
    assert found.answers == {"b": "b"}
    assert isinstance(found.failures["a"], RequestTimedOut)


def test_who_is_alone_may_take_its_time(go_on: threading.Event) -> None:
    def ask(address: str) -> str:
        go_on.wait(0.2)
        return address

    assert ask_all(["a"], ask, lead_s=0.01).answers == {"a": "a"}


def test_where_nobody_answers_the_failure_that_passes_first_is_raised() -> None:
    errors = {
        "a": ServiceOverloaded("a is full", 30.0),
        "b": ServiceUnavailable("b starts", 2.0),
        "c": ServiceUnavailable("c starts", 9.0),
    }

    def ask(address: str) -> str:
        raise errors[address]

    found = ask_all(["a", "b", "c"], ask, lead_s=LONG_S)

    assert found.failures == errors
    with pytest.raises(ServiceUnavailable, match="b starts"):
        found.one_answer()


def test_what_does_not_pass_is_raised_at_once(go_on: threading.Event) -> None:
    def ask(address: str) -> str:
        if address == "a":
            go_on.wait(LONG_S)
            raise ModelFailed("a")
        raise NotAllowed("b refuses the key")

    with pytest.raises(NotAllowed, match="b refuses"):
        ask_all(["a", "b"], ask, lead_s=LONG_S)

    assert not go_on.is_set()
