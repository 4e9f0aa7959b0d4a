"""A model that does not come back is noticed; one that does is left alone."""

import threading
from collections.abc import Callable

import pytest

from embedding_service.engine.watchdog import Watchdog

WAIT_S = 10


@pytest.fixture
def hung() -> threading.Event:
    return threading.Event()


def watchdog(patience_s: float, on_hang: Callable[[], None]) -> Watchdog:
    dog = Watchdog(patience_s, on_hang)
    dog.start()
    return dog


@pytest.mark.case("S8")
def test_a_pass_that_takes_too_long_is_noticed_while_it_lasts(hung: threading.Event) -> None:
    dog = watchdog(0.01, hung.set)

    with dog.watching():
        assert hung.wait(WAIT_S)


def test_passes_that_end_in_time_are_left_alone(hung: threading.Event) -> None:
    dog = watchdog(WAIT_S, hung.set)

    for _ in range(1000):
        with dog.watching():
            pass
    dog.stop()

    assert not hung.is_set()


def test_a_later_pass_is_watched_as_the_first_was(hung: threading.Event) -> None:
    dog = watchdog(0.05, hung.set)
    with dog.watching():
        pass

    with dog.watching():
        assert hung.wait(WAIT_S)
