"""The program of the parser process, with files in it that tell it how to fail."""

import os
import signal
import sys
from typing import Any

from rba_pipeline.core.documents import Parsed
from rba_pipeline.core.parsing.files import parse
from rba_pipeline.resources.parser_child import serve


def obey(raw: bytes, **about: Any) -> Parsed:
    """Do what the first word of the file says, or parse it."""
    word, _, rest = raw.partition(b" ")
    if word == b"signal":
        os.kill(os.getpid(), int(rest))
    elif word == b"exit":
        os._exit(int(rest))
    elif word == b"wait":
        signal.pause()
    elif word == b"interrupt":
        os.kill(os.getppid(), signal.SIGUSR1)
        signal.pause()
    elif word == b"raise":
        raise IndexError(rest.decode())
    elif word == b"allocate":
        bytearray(int(rest))
    elif word == b"print":
        os.write(1, rest)
        os.write(2, rest)
        print(rest.decode(), file=sys.stderr)
    return parse(raw, **about)


if __name__ == "__main__":
    serve(sys.argv[1:], obey)
