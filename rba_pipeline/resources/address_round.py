"""The same question to several addresses at once: one that stalls holds nobody up for long."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

from rba_pipeline.core.errors import (
    EmbeddingError,
    ModelFailed,
    RequestTimedOut,
    ServiceOverloaded,
    ServiceUnavailable,
)

Answer = TypeVar("Answer")

# What another try, or another address, may mend.
MAY_PASS = (ServiceOverloaded, ServiceUnavailable, ModelFailed)


@dataclass(frozen=True, slots=True)
class Round(Generic[Answer]):
    """What became of a question, by address, both in the order in which they were asked."""

    answers: dict[str, Answer]
    failures: dict[str, EmbeddingError]

    def one_answer(self) -> Answer:
        """Return the first answer.

        Raises:
            EmbeddingError: There is none; of the failures, the one that may pass first.
        """
        if not self.answers:
            raise min(self.failures.values(), key=_told_s)
        return next(iter(self.answers.values()))


def ask_all(
    addresses: Sequence[str], ask: Callable[[str], Answer], *, lead_s: float
) -> Round[Answer]:
    """Ask all ``addresses`` side by side.

    Args:
        ask: Ends by itself, or when its client is closed: whoever is too late is not waited for.
        lead_s: Who has not answered then fails, as soon as another one has.

    Raises:
        EmbeddingError: The first failure that does not pass.
    """
    pool = ThreadPoolExecutor(len(addresses), thread_name_prefix="ask")
    ends_at_s = time.monotonic() + lead_s
    answers: dict[str, Answer] = {}
    failures: dict[str, EmbeddingError] = {}
    try:
        asked = {pool.submit(ask, address): address for address in addresses}
        open_ = set(asked)
        while open_ and not (answers and time.monotonic() >= ends_at_s):
            left_s = max(0.0, ends_at_s - time.monotonic()) if answers else None
            done, open_ = wait(open_, left_s, FIRST_COMPLETED)
            for future in done:
                try:
                    answers[asked[future]] = future.result()
                except MAY_PASS as error:
                    failures[asked[future]] = error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    for future in open_:
        failures[asked[future]] = RequestTimedOut(
            f"{asked[future]} did not answer within {lead_s:g} s, and another address did"
        )
    return Round(_in_order(addresses, answers), _in_order(addresses, failures))


def _in_order(addresses: Sequence[str], found: dict[str, Answer]) -> dict[str, Answer]:
    return {address: found[address] for address in addresses if address in found}


def _told_s(error: EmbeddingError) -> float:
    if isinstance(error, ServiceOverloaded | ServiceUnavailable):
        return error.retry_after_s or 0.0
    return 0.0
