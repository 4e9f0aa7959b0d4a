"""Minutes of mixed load: every answer right, and no more memory at the end than after warm-up."""

import argparse
import itertools
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import requests

from benchmarks.command_line import add_out, positive
from benchmarks.mixed_load import MixedLoad, WrongAnswer, sampled, send_mixed
from benchmarks.reports import Goal, exit_code, goals_table, mib, progress, table, write_json
from benchmarks.server_processes import Command, ServerBroken, ServerProcess
from benchmarks.texts import whole_words
from embedding_service.backend.models import find_model

_MIB = 2**20
# Allocators settle for as long as new lengths come in new orders: some two minutes on two idle
# cores. Counted in requests, because a busy machine takes longer to meet as many.
WARM_UP_REQUESTS = 3300
_WARM_UP_S = 1800
_BEARABLE = 1 * _MIB
_MOST_NOISE = 1 * _MIB


@dataclass(frozen=True, slots=True)
class Growth:
    """Memory over the measured minutes: from the median of the first third to that of the last."""

    first_bytes: float
    last_bytes: float
    minutes: float
    """From the middle of the first third to the middle of the last."""
    noise_bytes: float
    """How far a sample usually is from its third's median: the greater of both thirds."""

    @property
    def bytes_per_minute(self) -> float:
        return (self.last_bytes - self.first_bytes) / self.minutes

    def goal(self) -> Goal:
        """Return what flat means: at most 1 MiB per minute beyond noise.

        A minute of this load is hundreds of requests: 1 MiB is a few KiB for each, less than its
        body, so that whatever forgets to let go of a request's texts or vectors is seen. Less
        cannot be told from an allocator that still settles within minutes. Noise may add 1 MiB
        per minute at the most, lest a leak hides in it; more minutes make its part smaller.
        """
        bound = _BEARABLE + min(_MOST_NOISE, self.noise_bytes / self.minutes)
        claim = "growth after warm-up, MiB/minute"
        return Goal(claim, self.bytes_per_minute / _MIB, round(bound / _MIB, 2), at_most=True)


def growth(samples: Sequence[tuple[float, float]]) -> Growth:
    """Return the growth over all ``samples``, pairs of seconds and bytes in ascending time.

    Raises:
        ValueError: There are fewer than three of them.
    """
    third = len(samples) // 3
    if third == 0:
        raise ValueError(f"expected three samples after warm-up, got {len(samples)}")
    # Medians, because an allocator gives and takes in steps that mean nothing.
    parts = np.array(samples[:third]), np.array(samples[-third:])
    (began, first), (ended, last) = (np.median(part, axis=0) for part in parts)
    noise = max(np.median(np.abs(part[:, 1] - np.median(part[:, 1]))) for part in parts)
    return Growth(float(first), float(last), float(ended - began) / 60, float(noise))


def soak(
    command: Command, words: Sequence[str], *, callers: int, seconds: float, warm_up: int = 0
) -> tuple[Counter[str], list[tuple[float, float]], int]:
    """Return requests by kind, memory samples (seconds, bytes), and the peak in bytes.

    There are ``warm_up`` requests before the ``seconds`` in which samples are taken.

    Raises:
        WrongAnswer: The server did not answer as it should.
        ServerBroken: It ended, or was not warm within half an hour.
    """
    over, warm, sent_so_far = threading.Event(), threading.Event(), itertools.count(1)

    def count() -> None:
        if next(sent_so_far) >= warm_up:
            warm.set()

    with ServerProcess(command) as server, ThreadPoolExecutor(1) as pool:
        load = MixedLoad(words, longest=_longest(server.url))
        sent = pool.submit(
            send_mixed, server.url, load, callers=callers, until=over, on_request=count
        )
        sent.add_done_callback(lambda _: warm.set())
        try:
            if not warm.wait(_WARM_UP_S):
                raise ServerBroken(f"no {warm_up} requests were answered in {_WARM_UP_S} s")
            samples = sampled(server.rss, every_s=seconds / 300, seconds=seconds, until=over)
        finally:
            over.set()
        return sent.result(), samples, server.peak_rss()


def _longest(url: str) -> int:
    limits = requests.get(f"{url}/info", timeout=10).json()["limits"]
    return int(limits["max_tokens_per_text"])


def report(counts: Counter[str], found: Growth, peak_bytes: int) -> str:
    slope = f"{found.bytes_per_minute / _MIB:+.2f} MiB/minute over {found.minutes:.1f} minutes"
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
    parser.add_argument("--callers", type=positive, default=6, help="requests in flight; default 6")
    parser.add_argument("--model", default="all-MiniLM-L6-v2", help="packaged name or folder")
    parser.add_argument("--runtime", help="EMBEDDING_RUNTIME; default auto")
    parser.add_argument("--precision", help="EMBEDDING_PRECISION; default auto")
    parser.add_argument("--max-seq-length", help="EMBEDDING_MAX_SEQ_LENGTH; default the model's")
    add_out(parser, "soak")
    return parser


if __name__ == "__main__":
    sys.exit(main())
