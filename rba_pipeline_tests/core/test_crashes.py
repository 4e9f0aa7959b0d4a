"""A text that takes the service down, in simulated time: it is found, and its neighbours stored."""

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from rba_pipeline.core.backlog import USUAL_STEPS, BacklogSteps
from rba_pipeline.core.dispatch import Dispatch, Limits
from rba_pipeline.core.errors import EmbeddingError, ServiceUnavailable
from rba_pipeline.core.pacing import fixed
from rba_pipeline.core.presets import Bounds
from rba_pipeline.core.tasks import Probe, Request
from rba_pipeline_tests.core.simulated_run import ANSWER_S, CONTROL, run, texts

RESTARTS_S = [2.0, 90.0]
SETTINGS = [(32, 8), (16, 2), (4, 2), (1, 2), (8, 4), (1, 1), (1, 8)]


@dataclass(order=True, slots=True)
class Sent:
    """What is in flight: when it ends, and whether the service falls over it, or is down."""

    ends_s: float
    number: int
    task: Request | Probe = field(compare=False)
    kills: bool = field(compare=False)
    is_lost: bool = field(compare=False, default=False)


@dataclass(slots=True)
class Addresses:
    """Services that answer one request at a time, fall over some and come back a little later.

    Whatever waits at one that falls is lost with it.
    """

    kills: Callable[[Sequence[str]], bool]
    restart_s: float = 2.0
    line: list[Sent] = field(default_factory=list)
    crashes: int = 0
    free_at_s: dict[str, float] = field(default_factory=dict)
    back_at_s: dict[str, float] = field(default_factory=dict)
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def take(self, task: Request | Probe, now_s: float) -> None:
        is_down = now_s < self.back_at_s.get(task.address, 0.0)
        begins_s = now_s if is_down else max(now_s, self.free_at_s.get(task.address, 0.0))
        sent = Sent(begins_s + ANSWER_S, next(self.numbers), task, self.kills(names_of(task)))
        sent.is_lost = is_down
        if not is_down:
            self.free_at_s[task.address] = sent.ends_s
        heapq.heappush(self.line, sent)

    def end(self) -> Sent:
        first = heapq.heappop(self.line)
        if first.kills and not first.is_lost:
            self.crashes += 1
            first.is_lost = True
            address = first.task.address
            self.free_at_s[address] = self.back_at_s[address] = first.ends_s + self.restart_s
            for other in self.line:
                if other.task.address == address:
                    other.ends_s, other.is_lost = first.ends_s, True
            heapq.heapify(self.line)
        return first


def names_of(task: Request | Probe) -> list[str]:
    if isinstance(task, Probe):
        return [CONTROL] if task.is_control else []
    return [text.text_hash for text in task.batch.texts]


def embedded_by(dispatch: Dispatch, services: Addresses) -> list[str]:
    """Let a run end; return what was embedded, as often as it was."""
    found, now_s = list[str](), 0.0
    while not dispatch.is_done:
        while (task := dispatch.next_request(now_s)) is not None:
            services.take(task, now_s)
        wake_s = dispatch.wake_at(now_s)
        if services.line and (wake_s is None or services.line[0].ends_s <= wake_s):
            sent = services.end()
            now_s, error = sent.ends_s, ServiceUnavailable("reset") if sent.is_lost else None
            if isinstance(sent.task, Probe):
                dispatch.probed(sent.task, error, now_s)
            elif error is not None:
                dispatch.failed(sent.task, error, now_s)
            else:
                found += names_of(sent.task)
                dispatch.answered(sent.task, sent.task.batch.tokens, now_s)
                dispatch.kept(len(sent.task.batch.texts))
        elif wake_s is not None:
            now_s = wake_s
    return found


def dispatch_of(
    count: int, size: int, parallel: int, addresses: Sequence[str] = ("a",)
) -> Dispatch:
    return Dispatch(
        iter(texts(count)), count, addresses, fixed(Bounds(size, parallel), timeout_s=30), False,
        BacklogSteps.read(USUAL_STEPS),
        Limits(2 * size * parallel, 1 << 30, outage_s=300), jitter=lambda: 1.0,
    )  # fmt: skip


@pytest.mark.parametrize("restart_s", RESTARTS_S)
@pytest.mark.parametrize("addresses", [("a",), ("a", "b")], ids=len)
@pytest.mark.parametrize("count", [1, 2, 4, 16, 200])
@pytest.mark.parametrize(("size", "parallel"), SETTINGS)
def test_a_text_that_takes_the_service_down_is_found_and_its_neighbours_are_embedded(
    size: int, parallel: int, count: int, addresses: Sequence[str], restart_s: float
) -> None:
    for bad in {0, count // 2, count - 1}:
        services = Addresses(lambda names, bad=bad: str(bad) in names, restart_s)
        dispatch = dispatch_of(count, size, parallel, addresses)
        embedded = embedded_by(dispatch, services)

        assert dispatch.failure is None
        assert [each.text_hash for each in dispatch.rejections] == [str(bad)]
        assert dispatch.rejections[0].reason == "connection_lost"
        assert sorted([*embedded, str(bad)]) == sorted(map(str, range(count)))
        assert services.crashes <= 11 + 2 * (len(addresses) - 1)


@pytest.mark.parametrize(("size", "parallel"), SETTINGS)
def test_several_of_them_are_all_found(size: int, parallel: int) -> None:
    services = Addresses(lambda names: bool({"3", "150"} & set(names)))
    dispatch = dispatch_of(200, size, parallel)
    embedded = embedded_by(dispatch, services)

    assert dispatch.failure is None
    assert sorted(each.text_hash for each in dispatch.rejections) == ["150", "3"]
    assert len(set(embedded)) == len(embedded) == 198


def test_beside_a_text_that_is_lost_each_time_a_chance_loss_has_no_other_blamed() -> None:
    for seed in range(60):
        chance = random.Random(seed)

        def service(
            address: str, names: Sequence[str], at_s: float, chance: random.Random = chance
        ) -> EmbeddingError | None:
            return ServiceUnavailable("lost") if "7" in names or chance.random() < 0.05 else None

        found = run(service, texts(200), bounds=Bounds(32, 2), outage_s=300)

        assert found.dispatch.failure is None
        assert found.rejected == {"7": "connection_lost"}


@pytest.mark.parametrize("every", [4, 5, 17])
@pytest.mark.parametrize(("size", "parallel"), SETTINGS)
def test_a_service_that_falls_over_now_and_then_has_no_text_blamed(
    size: int, parallel: int, every: int
) -> None:
    numbers = itertools.count(1)
    services = Addresses(lambda names: bool(names) and next(numbers) % every == 0)
    dispatch = dispatch_of(400, size, parallel)
    embedded = embedded_by(dispatch, services)

    assert dispatch.failure is None
    assert dispatch.rejections == []
    assert len(set(embedded)) == len(embedded) == 400


@pytest.mark.parametrize("restart_s", RESTARTS_S)
@pytest.mark.parametrize("count", [1, 2, 8, 200])
@pytest.mark.parametrize(("size", "parallel"), SETTINGS)
def test_a_service_that_falls_over_everything_but_its_canary_has_no_text_blamed(
    size: int, parallel: int, count: int, restart_s: float
) -> None:
    services = Addresses(bool, restart_s)
    dispatch = dispatch_of(count, size, parallel)
    embedded = embedded_by(dispatch, services)

    assert dispatch.failure is not None
    assert embedded == []
    assert dispatch.rejections == []
    assert services.crashes <= 40
