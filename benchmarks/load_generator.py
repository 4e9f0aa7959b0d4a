"""A closed loop of clients: each sends its next request when the last one is answered."""

import queue
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median

import orjson
import requests

_REFUSED = (429, 503)


@dataclass(frozen=True, slots=True)
class Setting:
    """How hard the clients lean on a server."""

    batch_size: int
    """Texts per request."""
    parallel: int
    """Requests in flight."""

    def __str__(self) -> str:
        return f"{self.batch_size}x{self.parallel}"

    @classmethod
    def parse(cls, text: str) -> "Setting":
        """Return the setting written as ``4x2``.

        Raises:
            ValueError: It is written otherwise, or either number is below 1.
        """
        batch_size, _, parallel = text.partition("x")
        if not (batch_size.isdecimal() and parallel.isdecimal()):
            raise ValueError(f"{text!r}: expected texts per request x requests in flight, as 4x2")
        found = cls(int(batch_size), int(parallel))
        if min(found.batch_size, found.parallel) < 1:
            raise ValueError(f"{text!r}: expected numbers of at least 1")
        return found


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """What a load of texts took, as its callers saw it."""

    texts: int
    tokens: int
    seconds: float
    request_s: tuple[float, ...]
    """Of each request, from its first sending to its answer."""
    compute_s: tuple[float, ...]
    """Of each request, what the server says that its passes took; 0 where it says nothing."""
    refusals: int

    @property
    def texts_per_s(self) -> float:
        return self.texts / self.seconds

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds

    @property
    def p50_s(self) -> float:
        return median(self.request_s)


class LoadFailed(Exception):
    """The server did not embed everything; the text says what it did instead."""


@dataclass(frozen=True, slots=True)
class _Answer:
    vectors: int
    tokens: int
    seconds: float
    compute_s: float
    refusals: int


def send_all(
    url: str,
    texts: Sequence[str],
    setting: Setting,
    *,
    input_type: str = "raw",
    timeout_s: float = 3600,
) -> LoadFigures:
    """Have ``texts`` embedded in batches, and return what that took.

    Refusals (429, 503) are counted and tried again after the time that they name.

    Args:
        url: The server's address, without a path.
        texts: ``n`` texts, n ≥ 1, sent in this order.
        setting: The last request may be smaller.
        input_type: By default without a prompt, so that every server computes the same tokens.
        timeout_s: For the whole load.

    Raises:
        LoadFailed: An answer was an error, or too late, or the server was gone.
    """
    bodies: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    for start in range(0, len(texts), setting.batch_size):
        batch = texts[start : start + setting.batch_size]
        bodies.put(orjson.dumps({"input": batch, "input_type": input_type}))
    began = time.perf_counter()
    with ThreadPoolExecutor(setting.parallel) as pool:
        clients = [
            pool.submit(_client, url, bodies, began + timeout_s) for _ in range(setting.parallel)
        ]
        answers = [answer for client in clients for answer in client.result()]
    seconds = time.perf_counter() - began
    vectors = sum(answer.vectors for answer in answers)
    if vectors != len(texts):
        raise LoadFailed(f"{url}: {vectors} vectors for {len(texts)} texts")
    return LoadFigures(
        texts=len(texts),
        tokens=sum(answer.tokens for answer in answers),
        seconds=seconds,
        request_s=tuple(answer.seconds for answer in answers),
        compute_s=tuple(answer.compute_s for answer in answers),
        refusals=sum(answer.refusals for answer in answers),
    )


def _client(url: str, bodies: "queue.SimpleQueue[bytes]", deadline: float) -> list[_Answer]:
    answers: list[_Answer] = []
    with requests.Session() as session:
        while True:
            try:
                body = bodies.get_nowait()
            except queue.Empty:
                return answers
            answers.append(_ask(session, url, body, deadline))


def _ask(session: requests.Session, url: str, body: bytes, deadline: float) -> _Answer:
    began = time.perf_counter()
    refusals = 0
    while True:
        response = _post(session, url, body, deadline)
        if response.status_code not in _REFUSED:
            break
        refusals += 1
        if "Retry-After" not in response.headers:
            raise LoadFailed(f"{url}: {response.status_code} without Retry-After")
        pause_s = float(response.headers["Retry-After"])
        time.sleep(min(pause_s, max(0.0, deadline - time.perf_counter())))
    if response.status_code != 200:
        raise LoadFailed(f"{url}: {response.status_code} {response.text[:300]}")
    answer = orjson.loads(response.content)
    return _Answer(
        vectors=len(answer["data"]),
        tokens=answer["usage"]["prompt_tokens"],
        seconds=time.perf_counter() - began,
        compute_s=float(response.headers.get("X-Compute-Seconds", 0)),
        refusals=refusals,
    )


def _post(session: requests.Session, url: str, body: bytes, deadline: float) -> requests.Response:
    left_s = deadline - time.perf_counter()
    if left_s <= 0:
        raise LoadFailed(f"{url}: not everything was embedded in time")
    try:
        return session.post(
            f"{url}/embeddings",
            data=body,
            headers={"Content-Type": "application/json"},
            timeout=left_s,
        )
    except requests.RequestException as error:
        raise LoadFailed(f"{url}: {error!r}") from error
