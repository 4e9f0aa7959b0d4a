"""A run in simulated time: ``Dispatch`` against addresses that answer and fail as they are told."""

import heapq
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rba_pipeline.core.backlog import USUAL_STEPS, BacklogSteps
from rba_pipeline.core.dispatch import Dispatch
from rba_pipeline.core.embeddings import Text
from rba_pipeline.core.errors import EmbeddingError, RequestTimedOut
from rba_pipeline.core.pacing import fixed, started
from rba_pipeline.core.presets import Bounds
from rba_pipeline.core.run_limits import Limits
from rba_pipeline.core.tasks import Probe, Request

ANSWER_S = 0.1
TIMEOUT_S = 30.0

# What a control is called: a text that is none of the run's.
CONTROL, LONG_CONTROL = "control", "long control"
# What comes of texts sent to an address at a time: None for an answer; a probe for the canary sends
# no texts.
Service = Callable[[str, Sequence[str], float], EmbeddingError | None]


def texts(count: int) -> list[Text]:
    return [Text(str(number), str(number), 10) for number in range(count)]


@dataclass(slots=True)
class Run:
    """What happened.

    Attributes:
        requests: Address and texts of each request, in the order of sending.
        embedded: Every text that was answered, as often as it was.
        ended_s: When nothing was left to do.
        most_tokens: In flight at one address.
    """

    dispatch: Dispatch
    requests: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    probes: int = 0
    controls: int = 0
    embedded: list[str] = field(default_factory=list)
    ended_s: float = 0.0
    most_unkept: int = 0
    most_tokens: int = 0

    @property
    def calls(self) -> int:
        return len(self.requests) + self.probes + self.controls

    @property
    def rejected(self) -> dict[str, str]:
        return {each.text_hash: each.reason for each in self.dispatch.rejections}


def run(
    service: Service,
    wanted: Iterable[Text],
    *,
    bounds: Bounds,
    addresses: Sequence[str] = ("a",),
    outage_s: float = 60,
    request_tokens: int = 1 << 30,
    doubted: Collection[str] = (),
    embedded_before: int = 0,
    address_tokens: int | None = None,
    timeout_s: float = TIMEOUT_S,
    adaptive: bool = False,
    seconds_per_text: float = 0.0,
    long_characters: int = 1 << 30,
    slow: Mapping[str, float] | None = None,
) -> Run:
    """Let all texts go through ``service``; vectors are kept at once.

    It sees ``LONG_CONTROL`` for a control of ``long_characters`` or more.

    Answers take ``ANSWER_S``, those of ``slow`` addresses as many seconds as it says.

    What times out takes ``timeout_s``. An address computes one request after the other if
    ``seconds_per_text`` says how long, and leaves one whose caller has left.
    """
    wanted, free_at_s = list(wanted), dict[str, float]()
    steps = BacklogSteps.read(USUAL_STEPS)
    pace = fixed(bounds, timeout_s=timeout_s)
    if adaptive:
        pace = started(bounds, timeout_s=timeout_s, backlog=len(wanted), steps=steps)
    dispatch = Dispatch(
        iter(wanted),
        len(wanted),
        addresses,
        pace,
        adaptive,
        steps,
        Limits(
            2 * bounds.batch_size * bounds.parallel_batches,
            request_tokens,
            outage_s,
            address_tokens,
        ),
        doubted=doubted,
        embedded_before=embedded_before,
        jitter=lambda: 1.0,
    )
    found, now_s, tickets = Run(dispatch), 0.0, itertools.count()
    line: list[tuple[float, int, Request | Probe, EmbeddingError | None]] = []
    while not dispatch.is_done:
        while (task := dispatch.next_request(now_s)) is not None:
            names: tuple[str, ...] = ()
            if isinstance(task, Probe) and task.is_control:
                found.controls += 1
                names = (CONTROL if len(task.text) < long_characters else LONG_CONTROL,)
            elif isinstance(task, Request):
                names = tuple(text.text_hash for text in task.batch.texts)
                found.requests.append((task.address, names))
                found.most_tokens = max(found.most_tokens, task.in_flight)
            else:
                found.probes += 1
            error, ends_s = service(task.address, names, now_s), now_s
            ends_s += (slow or {}).get(task.address, ANSWER_S)
            if seconds_per_text and error is None:
                ends_s = max(now_s, free_at_s.get(task.address, 0.0))
                ends_s += max(len(names), 1) * seconds_per_text
                if ends_s - now_s > timeout_s:
                    error, ends_s = RequestTimedOut(f"{timeout_s:g} s"), now_s + timeout_s
                free_at_s[task.address] = ends_s
            if isinstance(error, RequestTimedOut):
                ends_s = now_s + timeout_s
            heapq.heappush(line, (ends_s, next(tickets), task, error))
        found.most_unkept = max(found.most_unkept, dispatch.unkept)
        if dispatch.is_done:
            break
        wake_s = dispatch.wake_at(now_s)
        if line and (wake_s is None or line[0][0] <= wake_s):
            now_s, _, task, error = heapq.heappop(line)
            _ended(found, task, error, now_s)
        elif wake_s is not None:
            now_s = wake_s
        else:
            raise AssertionError("nothing is in flight, nothing is due, and the run is not done")
    found.ended_s = now_s
    return found


def _ended(found: Run, task: Request | Probe, error: EmbeddingError | None, now_s: float) -> None:
    dispatch = found.dispatch
    if isinstance(task, Probe):
        dispatch.probed(task, error, now_s)
    elif error is not None:
        dispatch.failed(task, error, now_s)
    else:
        found.embedded += [text.text_hash for text in task.batch.texts]
        dispatch.answered(task, task.batch.tokens, now_s)
        dispatch.kept(len(task.batch.texts))
