"""The program of the parser process: parses one file after another under limits. No Dagster here.

It ends when its parent does, and writes nothing but answers, to its parent.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

from rba_pipeline.core.documents import Parsed
from rba_pipeline.core.errors import DocumentRejected, ParsingStopped
from rba_pipeline.core.parsing.files import parse
from rba_pipeline.core.parsing.limits import ParseLimits
from rba_pipeline.resources.parser_messages import (
    READY,
    ParserBroke,
    ParserOutOfMemory,
    answer,
    asked,
    failure,
    longest_answer,
    read_frame,
    refusal,
    write_frame,
)

_PR_SET_PDEATHSIG = 1

Parse = Callable[..., Parsed]


def serve(arguments: list[str], parse_file: Parse = parse) -> None:
    """Answer questions from standard input until it ends; ``arguments`` are limits and parent."""
    # Started in a shell's background, Dagster ignores it, and so would whom it starts.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    limits = ParseLimits(**json.loads(arguments[0]))
    _end_with(int(arguments[1]))
    _restrict(limits)
    answers = _taken_over_output()
    write_frame(answers, READY)
    while (about := read_frame(sys.stdin.buffer)) is not None:
        _allow_seconds(limits.max_parse_s)
        write_frame(answers, _answer(about, limits, parse_file))


def _answer(about: bytes, limits: ParseLimits, parse_file: Parse) -> bytes:
    path, stated = asked(about)
    try:
        # Cut short only where the parent is gone, and nobody waits for an answer.
        raw = read_frame(sys.stdin.buffer) or b""
        found = answer(parse_file(raw, path=path, stated=stated, limits=limits))
        if len(found) > longest_answer(limits):
            raise ParsingStopped("too_large", limits.exceeded("max_characters"))
        return found
    except DocumentRejected as rejected:
        return refusal(rejected)
    except MemoryError:
        return failure(ParserOutOfMemory("MemoryError"))
    except Exception as error:  # noqa: BLE001 - it is handed to the one who waits for an answer
        return failure(ParserBroke(f"{type(error).__name__} {_place(error)}"))


def _place(error: Exception) -> str:
    """Return where ``error`` was raised. Its message may quote the file, and is left out."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"at {os.path.basename(last.filename)}:{last.lineno}"


def _end_with(parent: int) -> None:
    """Have the kernel kill this process when the parent's thread that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent has ended already")


def _restrict(limits: ParseLimits) -> None:
    """Bound the memory, write no file and no core. Where memory is short, be the first to go."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = limits.max_parse_memory_bytes
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    # macOS refuses it.
    with suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _allow_seconds(seconds: int) -> None:
    """Let the next file compute for ``seconds``, or up to one more; then SIGXCPU ends this."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    until = int(time.process_time()) + 1 + seconds
    until = until if hard == resource.RLIM_INFINITY else min(until, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (until, hard))


def _taken_over_output() -> BinaryIO:
    """Return the pipe to the parent. Whatever else is printed from now on goes nowhere."""
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    return answers


if __name__ == "__main__":
    serve(sys.argv[1:])
