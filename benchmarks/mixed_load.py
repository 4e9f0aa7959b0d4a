"""Callers of every kind at once: short and long texts, queries, nonsense, and those who hang up."""

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import orjson

from benchmarks.texts import Lengths, make_texts
from embedding_service.backend.packing import pass_size

_TIMEOUT_S = 120
_JSON = {"Content-Type": "application/json"}
# Kind of request: how many of a hundred are of it, and the statuses that are right for it.
_KINDS = {
    "short": (40, {200, 429}),
    "long": (15, {200, 429}),
    "query": (20, {200, 429}),
    "late": (5, {200, 429, 504}),
    "bad": (10, {413, 422}),
    "leaver": (10, set[int]()),
}
_NONSENSE = (
    b'{"input": [NaN]}',
    b'{"input": ""}',
    b'{"input": "\xff"}',
    b'{"input": "a", "input": "b"}',
    b"[" * 100_000,
    orjson.dumps({"input": "far too long " * 40_000}),
    orjson.dumps({"input": ["a"] * 5000}),
)


@dataclass(frozen=True, slots=True)
class MixedLoad:
    """What the callers send."""

    words: Sequence[str]
    """Of one token each."""
    longest: int
    """Tokens of the longest text that the server takes."""


class WrongAnswer(Exception):
    """A status that is not right for the request; the text says which."""


def send_mixed(
    url: str,
    load: MixedLoad,
    *,
    callers: int,
    until: threading.Event,
    on_request: Callable[[], None] = lambda: None,
) -> Counter[str]:
    """Keep ``callers`` requests in flight until the event is set; return how many of each kind.

    Args:
        on_request: Called after each, by its caller's thread.

    Raises:
        WrongAnswer: At the first answer that is not right; the other callers have ended.
    """
    with ThreadPoolExecutor(callers) as pool:
        work = [
            pool.submit(_call, url, load, random.Random(i), until, on_request)
            for i in range(callers)
        ]
        counts = [future.result() for future in work]
    return sum(counts, Counter[str]())


def _call(
    url: str,
    load: MixedLoad,
    chance: random.Random,
    until: threading.Event,
    on_request: Callable[[], None],
) -> Counter[str]:
    kinds, weights = list(_KINDS), [share for share, _ in _KINDS.values()]
    counts: Counter[str] = Counter()
    line = http.client.HTTPConnection(str(urlsplit(url).netloc), timeout=_TIMEOUT_S)
    try:
        while not until.is_set():
            (kind,) = chance.choices(kinds, weights)
            status = _send(line, kind, load, chance)
            if kind != "leaver" and status not in _KINDS[kind][1]:
                raise WrongAnswer(f"a request of kind {kind!r} was answered with {status}")
            counts[kind if status != 429 else "refused"] += 1
            on_request()
    finally:
        # Whoever ends, by a wrong answer or a lost line, ends the whole load.
        until.set()
        line.close()
    return counts


def _send(
    line: http.client.HTTPConnection, kind: str, load: MixedLoad, chance: random.Random
) -> int:
    headers = dict(_JSON)
    if kind == "late":
        headers["X-Request-Timeout-Ms"] = str(chance.randint(1, 200))
    line.request("POST", "/embeddings", _body(kind, load, chance), headers)
    if kind == "leaver":
        line.close()
        return 0
    answer = line.getresponse()
    answer.read()
    return answer.status


def _body(kind: str, load: MixedLoad, chance: random.Random) -> bytes:
    if kind == "bad":
        return chance.choice(_NONSENSE)
    # Room for a prompt.
    longest = load.longest - 16
    most_texts, lengths = {
        "query": (1, Lengths(12, 0.3, 4, 30)),
        "long": (2, Lengths(longest // 2, 0.5, 8, longest)),
    }.get(kind, (16, Lengths(min(85, longest // 2), 0.4, 8, min(250, longest))))
    chosen = lengths.draw(chance.randint(1, most_texts), chance)
    body: dict[str, Any] = {"input": make_texts(chosen, load.words, chance.randrange(2**32))}
    if kind == "query":
        body["input_type"] = "query"
    return orjson.dumps(body)


def send_every_size(url: str, load: MixedLoad, limits: Mapping[str, int]) -> int:
    """Have the server make one pass of each size that one request can fill; return how many.

    It keeps what it makes for each, code and more. A mixed load meets some sizes only after tens of
    thousands of requests, and until then memory grows: that is bounded, and so no leak.

    Args:
        limits: As the server's ``/info`` names them.

    Raises:
        WrongAnswer: At the first answer that is not right.
    """
    longest = min(load.longest, 128)
    most = min(limits["max_batch_tokens"], longest * limits["max_texts"])
    sizes = np.unique(pass_size(np.arange(4, most + 1)))
    line = http.client.HTTPConnection(str(urlsplit(url).netloc), timeout=_TIMEOUT_S)
    try:
        for size in sizes:
            # Of equal length, so that all go into one pass.
            lengths = [len(share) for share in np.array_split(np.arange(size), -(-size // longest))]
            body = {"input": make_texts(lengths, load.words), "input_type": "raw"}
            line.request("POST", "/embeddings", orjson.dumps(body), _JSON)
            answer = line.getresponse()
            answer.read()
            if answer.status != 200:
                raise WrongAnswer(f"{size} tokens were answered with {answer.status}")
    finally:
        line.close()
    return len(sizes)


def sampled(
    sample: Callable[[], float], *, every_s: float, seconds: float, until: threading.Event
) -> list[tuple[float, float]]:
    """Return pairs of seconds since the start and ``sample``, until ``seconds`` or the event."""
    began = time.monotonic()
    found = []
    while (now := time.monotonic() - began) < seconds:
        found.append((now, sample()))
        if until.wait(min(every_s, seconds - now)):
            break
    return found
