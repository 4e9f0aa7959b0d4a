"""Minutes of mixed load: every answer right, and no more memory at the end than after warm-up.

How long memory takes to settle depends on which texts happen to meet in a pass, so there are
several times as many minutes: a leak is in all of them.
"""

import argparse
import itertools
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import requests

from benchmarks.command_line import add_out, positive
from benchmarks.mixed_load import MixedLoad, WrongAnswer, sampled, send_every_size, send_mixed
from benchmarks.reports import Goal, exit_code, goals_table, mib, progress, table, write_json
from benchmarks.server_processes import Command, ServerBroken, ServerProcess
from benchmarks.texts import whole_words
from embedding_service.backend.models import find_model

_MIB = 2**20
# After a pass of each size, which took 66 MiB (MiniLM, bf16), allocators settle for as long as new
# lengths come in new orders. Counted in requests: a busy machine takes longer to meet as many.
WARM_UP_REQUESTS = 3300
_WARM_UP_S = 1800
# MiniLM in bf16 on two cores with other load: steps of 2 to 6 MiB until some 6,000 requests were
# answered, for an arena of the allocator.
TIMES = 4
_BEARABLE_BY_MINUTE, _BEARABLE = 1 * _MIB, 5 * _MIB


# Pairs of seconds and bytes, in ascending time.
Samples = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Growth:
    """Memory over the measured minutes."""

    first_bytes: float
    """Median of the first third."""
    bytes_per_minute: float
    minutes: float
    noise_bytes: float
    """How far a sample usually is from the line with that slope."""

    @property
    def grown_bytes(self) -> float:
        return self.bytes_per_minute * self.minutes

    def goal(self) -> Goal:
        """Return what flat means: at most 5 MiB in all beyond noise, and 1 MiB for each minute.

        In an hour, 5 MiB are some 40 bytes for each request, in minutes a few hundred: less than
        its body, so that whatever forgets to let go of a request's texts or vectors is seen. Less
        cannot be told from an allocator that still settles: 1.3 MiB in five minutes were seen, and
        steps of 6 MiB up and down. Noise may double the bound at the most, lest a leak hides in it.
        """
        bearable = min(_BEARABLE, _BEARABLE_BY_MINUTE * self.minutes)
        bound = bearable + min(bearable, self.noise_bytes)
        claim = "growth after warm-up, MiB"
        return Goal(claim, self.grown_bytes / _MIB, round(bound / _MIB, 2), at_most=True)


def growth(samples: Samples) -> Growth:
    """Return the growth over all ``samples``.

    Raises:
        ValueError: There are fewer than three of them.
    """
    if len(samples) < 3:
        raise ValueError(f"expected three samples after warm-up, got {len(samples)}")
    minutes, sizes = np.array(samples).T / [[60], [1]]
    earlier, later = np.triu_indices(len(samples), 1)
    # The median of the slopes between any two: a step that an allocator takes, up or down, is no
    # slope of most pairs, and a leak is.
    slope = np.median((sizes[later] - sizes[earlier]) / (minutes[later] - minutes[earlier]))
    beside = sizes - slope * minutes
    return Growth(
        first_bytes=float(np.median(sizes[: len(samples) // 3])),
        bytes_per_minute=float(slope),
        minutes=float(minutes[-1] - minutes[0]),
        noise_bytes=float(np.median(np.abs(beside - np.median(beside)))),
    )


def measured(
    take: Callable[[float], Samples],
    *,
    seconds: float,
    times: int = 1,
    then_s: float = 0,
    ended: Callable[[], bool],
) -> Samples:
    """Return the first samples, of at most ``times``, in which memory is flat, or else the last.

    Args:
        take: Takes samples for so many seconds.
        then_s: Once memory was flat, so many seconds follow, whose samples are returned instead.
        ended: Whether the load is over, so that there is nothing more to take.
    """
    for time in range(1, times + 1):
        samples = take(seconds)
        if ended():
            break
        if (goal := growth(samples).goal()).met:
            return take(then_s) if then_s else samples
        progress(f"not flat: {goal.found:+.1f} MiB, time {time} of {times} …")
    return samples


def soak(
    command: Command,
    words: Sequence[str],
    *,
    callers: int,
    seconds: float,
    warm_up: int = 0,
    times: int = 1,
    then_s: float = 0,
) -> tuple[Counter[str], Samples, int]:
    """Return requests by kind, memory samples, and the peak in bytes.

    The server makes a pass of each size that it has, and then there are ``warm_up`` requests,
    before the ``seconds`` in which samples are taken. If memory was not flat then, these are taken
    anew, and so on up to ``times`` in all. Once it was flat, ``then_s`` seconds follow, if any,
    whose samples are returned instead.

    Raises:
        WrongAnswer: The server did not answer as it should.
        ServerBroken: It ended, or was not warm within half an hour.
    """
    over, warm, sent_so_far = threading.Event(), threading.Event(), itertools.count(1)

    def count() -> None:
        if next(sent_so_far) >= warm_up:
            warm.set()

    with ServerProcess(command) as server, ThreadPoolExecutor(1) as pool:
        limits = _limits(server.url)
        load = MixedLoad(words, longest=limits["max_tokens_per_text"])
        sizes = send_every_size(server.url, load, limits)
        progress(f"made a pass of each of {sizes} sizes …")
        sent = pool.submit(
            send_mixed, server.url, load, callers=callers, until=over, on_request=count
        )
        sent.add_done_callback(lambda _: warm.set())

        def take(span_s: float) -> Samples:
            return sampled(server.rss, every_s=span_s / 300, seconds=span_s, until=over)

        try:
            if not warm.wait(_WARM_UP_S):
                raise ServerBroken(f"no {warm_up} requests were answered in {_WARM_UP_S} s")
            samples = measured(take, seconds=seconds, times=times, then_s=then_s, ended=over.is_set)
        finally:
            over.set()
        return sent.result(), samples, server.peak_rss()


def _limits(url: str) -> dict[str, int]:
    limits: dict[str, int] = requests.get(f"{url}/info", timeout=10).json()["limits"]
    return limits


def report(counts: Counter[str], found: Growth, peak_bytes: int) -> str:
    slope = f"{found.bytes_per_minute / _MIB:+.3f} MiB/minute over {found.minutes:.1f} minutes"
    return "\n".join(
        [
            table(["", "requests"], sorted(counts.items())),
            f"\nmemory: {mib(found.first_bytes)} MiB after warm-up, {slope}; "
            f"peak {mib(peak_bytes)} MiB\n",
            goals_table([found.goal()]),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if memory is flat and every answer was right, else 1."""
    asked = _parser().parse_args(arguments)
    environment = {"EMBEDDING_MODEL": asked.model} | {
        f"EMBEDDING_{name.upper()}": value
        for name in ("runtime", "precision", "max_seq_length")
        if (value := getattr(asked, name))
    }
    words = whole_words(find_model(asked.model, None).path)
    progress(f"{asked.minutes:g} minutes, {asked.callers} callers …")
    try:
        counts, samples, peak = soak(
            Command("embedding_service", environment=environment),
            words,
            callers=asked.callers,
            seconds=asked.minutes * 60,
            warm_up=asked.warm_up,
            times=asked.times,
            then_s=asked.then * 60,
        )
    except (WrongAnswer, ServerBroken) as error:
        progress(str(error))
        return 1
    found = growth(samples)
    print(report(counts, found, peak))
    figures = {"requests": counts, "growth": found, "peak_bytes": peak, "samples": samples}
    write_json(asked.out, "soak", figures, [found.goal()])
    progress(f"figures: {asked.out}")
    return exit_code([found.goal()])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5, help="measured; default 5")
    parser.add_argument(
        "--warm-up",
        type=int,
        default=WARM_UP_REQUESTS,
        metavar="REQUESTS",
        help=f"before; default {WARM_UP_REQUESTS}, two minutes on two idle cores",
    )
    parser.add_argument(
        "--times",
        type=positive,
        default=TIMES,
        help="measure as many minutes anew while memory is not flat; at most so often in all; "
        f"default {TIMES}",
    )
    parser.add_argument(
        "--then",
        type=float,
        default=0,
        metavar="MINUTES",
        help="measured instead, once memory was flat; default 0: not at all",
    )
    parser.add_argument("--callers", type=positive, default=6, help="requests in flight; default 6")
    parser.add_argument("--model", default="all-MiniLM-L6-v2", help="packaged name or folder")
    parser.add_argument("--runtime", help="EMBEDDING_RUNTIME; default auto")
    parser.add_argument("--precision", help="EMBEDDING_PRECISION; default auto")
    parser.add_argument("--max-seq-length", help="EMBEDDING_MAX_SEQ_LENGTH; default the model's")
    add_out(parser, "soak")
    return parser


if __name__ == "__main__":
    sys.exit(main())
