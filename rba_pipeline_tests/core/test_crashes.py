"""A text that takes the service down, in simulated time: it is found, and its neighbours stored."""

import heapq
import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import pytest

from rba_pipeline.core.backlog import USUAL_STEPS, BacklogSteps
from rba_pipeline.core.dispatch import Dispatch
from rba_pipeline.core.embeddings import Text
from rba_pipeline.core.errors import EmbeddingError, ServiceUnavailable
from rba_pipeline.core.pacing import fixed
from rba_pipeline.core.presets import Bounds
from rba_pipeline.core.run_limits import Limits
from rba_pipeline.core.tasks import Probe, Request
from rba_pipeline_tests.core.simulated_run import ANSWER_S, CONTROL, run, texts

RESTARTS_S = [2.0, 90.0]
SETTINGS = [(32, 8), (16, 2), (12, 2), (4, 2), (3, 1), (1, 2), (8, 4), (1, 1), (1, 8)]


@dataclass(order=True, slots=True)
class Sent:
    """What is in flight: when it ends, and whether the service falls over it, or is down."""

    ends_s: float
    number: int
    run: Dispatch = field(compare=False)
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

    def take(self, run: Dispatch, task: Request | Probe, now_s: float) -> None:
        is_down = now_s < self.back_at_s.get(task.address, 0.0)
        begins_s = now_s if is_down else max(now_s, self.free_at_s.get(task.address, 0.0))
        kills = self.kills(names_of(task))
        sent = Sent(begins_s + ANSWER_S, next(self.numbers), run, task, kills)
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


def embedded_by(services: Addresses, *runs: tuple[Dispatch, float]) -> list[str]:
    """Let runs end, each begun at its time; return what was embedded, as often as it was."""
    found, now_s = list[str](), 0.0
    while going := [(each, at_s) for each, at_s in runs if not each.is_done]:
        for each, at_s in going:
            while at_s <= now_s and (task := each.next_request(now_s)) is not None:
                services.take(each, task, now_s)
        times = [at_s if now_s < at_s else each.wake_at(now_s) for each, at_s in going]
        wake_s = min((time for time in times if time is not None), default=math.inf)
        if services.line and services.line[0].ends_s <= wake_s:
            now_s = services.line[0].ends_s
            found += ended(services.end())
        else:
            assert wake_s < math.inf, "nothing is in flight, nothing is due, and a run is not done"
            now_s = wake_s
    return found


def ended(sent: Sent) -> list[str]:
    """Tell its run what came of a request; return what was embedded."""
    error = ServiceUnavailable("reset") if sent.is_lost else None
    if isinstance(sent.task, Probe):
        sent.run.probed(sent.task, error, sent.ends_s)
    elif error is not None:
        sent.run.failed(sent.task, error, sent.ends_s)
    else:
        sent.run.answered(sent.task, sent.task.batch.tokens, sent.ends_s)
        sent.run.kept(len(sent.task.batch.texts))
        return names_of(sent.task)
    return []


def dispatch_of(
    wanted: Sequence[Text],
    size: int,
    parallel: int,
    addresses: Sequence[str] = ("a",),
    jitter: Callable[[], float] = lambda: 1.0,
) -> Dispatch:
    return Dispatch(
        iter(wanted), len(wanted), addresses, fixed(Bounds(size, parallel), timeout_s=30), False,
        BacklogSteps.read(USUAL_STEPS),
        Limits(2 * size * parallel, 1 << 30, outage_s=300), jitter=jitter,
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
        dispatch = dispatch_of(texts(count), size, parallel, addresses)
        embedded = embedded_by(services, (dispatch, 0.0))

        assert dispatch.failure is None
        assert [each.text_hash for each in dispatch.rejections] == [str(bad)]
        assert dispatch.rejections[0].reason == "connection_lost"
        assert sorted([*embedded, str(bad)]) == sorted(map(str, range(count)))
        assert services.crashes <= 11 + 2 * (len(addresses) - 1)


@pytest.mark.parametrize("restart_s", [2.0, 20.0])
@pytest.mark.parametrize("count", [1, 40])
@pytest.mark.parametrize(("size", "parallel"), [(32, 8), (8, 2), (1, 1)])
def test_a_text_that_takes_the_service_down_has_none_of_another_run_blamed(
    size: int, parallel: int, count: int, restart_s: float
) -> None:
    # Answers are short beside the pauses. Where they take 1 or 4 s, what goes alone may be beside
    # the bad text each time, by chance: in 32 of 7,680 such games a text was blamed for it.
    theirs = [Text(f"other {number}", f"other {number}", 10) for number in range(count)]
    for seed in range(40):
        chance = random.Random(seed)
        services = Addresses(lambda names: "7" in names, restart_s)
        first, second = (
            dispatch_of(wanted, size, parallel, jitter=partial(chance.uniform, 1.0, 1.25))
            for wanted in (texts(40), theirs)
        )
        embedded = embedded_by(services, (first, 0.0), (second, chance.uniform(0, 5)))

        assert first.failure is None
        assert second.failure is None
        assert second.rejections == []
        assert [(each.text_hash, each.reason) for each in first.rejections] == [
            ("7", "connection_lost")
        ]
        assert sorted([*embedded, "7"]) == sorted(text.text_hash for text in (*texts(40), *theirs))


@pytest.mark.parametrize(("size", "parallel"), SETTINGS)
def test_several_of_them_are_all_found(size: int, parallel: int) -> None:
    services = Addresses(lambda names: bool({"3", "150"} & set(names)))
    dispatch = dispatch_of(texts(200), size, parallel)
    embedded = embedded_by(services, (dispatch, 0.0))

    assert dispatch.failure is None
    assert sorted(each.text_hash for each in dispatch.rejections) == ["150", "3"]
    assert len(set(embedded)) == len(embedded) == 198


@pytest.mark.parametrize("size", [32, 12, 6, 3])
def test_beside_a_text_that_is_lost_each_time_a_chance_loss_has_no_other_blamed(size: int) -> None:
    for seed in range(60):
        chance = random.Random(seed)

        def service(
            address: str, names: Sequence[str], at_s: float, chance: random.Random = chance
        ) -> EmbeddingError | None:
            return ServiceUnavailable("lost") if "7" in names or chance.random() < 0.05 else None

        found = run(service, texts(200), bounds=Bounds(size, 2), outage_s=300)

        assert found.dispatch.failure is None
        assert found.rejected == {"7": "connection_lost"}


@pytest.mark.parametrize("every", [4, 5, 17])
@pytest.mark.parametrize(("size", "parallel"), SETTINGS)
def test_a_service_that_falls_over_now_and_then_has_no_text_blamed(
    size: int, parallel: int, every: int
) -> None:
    numbers = itertools.count(1)
    services = Addresses(lambda names: bool(names) and next(numbers) % every == 0)
    dispatch = dispatch_of(texts(400), size, parallel)
    embedded = embedded_by(services, (dispatch, 0.0))

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
    dispatch = dispatch_of(texts(count), size, parallel)
    embedded = embedded_by(services, (dispatch, 0.0))

    assert dispatch.failure is not None
    assert embedded == []
    assert dispatch.rejections == []
    assert services.crashes <= 40
