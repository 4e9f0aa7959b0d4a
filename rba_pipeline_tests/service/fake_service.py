"""The real server around a fake model: ``python -m rba_pipeline_tests.service.fake_service``.

Words that a text may hold:
    hold     the model opens the FIFO named by FAKE_GATE for reading, and reads it to its end
    poison   the model fails on this batch
    labour   the model takes a tenth of a second for this batch
    die      the thread that owns the model ends

FAKE_FIRST, in the environment, holds words for the first batch of all, which is of the self-test;
FAKE_MAX_TOKENS is how many the model takes, 64 by default.
"""

import argparse
import itertools
import os
import sys
import threading
from collections.abc import Sequence

from embedding_service import logs, server
from embedding_service.backend.base import Matryoshka, Prompts, TokenIds
from embedding_service.backend.fake import FakeBackend
from embedding_service.errors import StartupError
from embedding_service.settings import read_settings

PROMPTS = Prompts(document="document: ", query="query: ")


class Death(BaseException):
    """Not an Exception, so that nothing that handles failed batches handles it."""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ready-fd", type=int)
    asked = parser.parse_args()
    backend = FakeBackend(
        dimensions=8,
        max_tokens=int(os.environ.get("FAKE_MAX_TOKENS", "64")),
        prompts=PROMPTS,
        matryoshka=Matryoshka((4, 8), layer_norm_first=True),
        before_encode=_obey,
    )
    try:
        settings = read_settings()
        logs.configure(settings.log_format)
        return server.run(settings, ready_fd=asked.ready_fd, backend=backend)
    except StartupError as error:
        print(error, file=sys.stderr)
        return 2


_batches = itertools.count()


def _obey(batch: Sequence[TokenIds]) -> None:
    said = {int(token) for ids in batch for token in ids}
    if next(_batches) == 0:
        said |= set().union(*map(_token, os.environ.get("FAKE_FIRST", "").split()))
    if said & _token("hold"):
        with open(os.environ["FAKE_GATE"], "rb") as gate:
            gate.read()
    if said & _token("labour"):
        threading.Event().wait(0.1)
    if said & _token("poison"):
        raise ValueError("a poisoned batch")
    if said & _token("die"):
        raise Death


def _token(word: str) -> set[int]:
    return {int(FakeBackend().tokenise([word], "raw")[0][1])}


if __name__ == "__main__":
    sys.exit(main())
