"""The process that prepares a model; ends with its parent. For ``preparation`` only."""

import logging
import os
import sys
import threading

from embedding_service.backend.order import read_order
from embedding_service.errors import StartupError


def main() -> int:
    """Return 0, or 1 with the reason on standard output."""
    # The parent writes each line into its own log.
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    for noisy in ("nncf", "sentence_transformers", "transformers"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()
    order, out = read_order(sys.argv[1:])
    # What the libraries print is no answer of ours.
    answer, sys.stdout = sys.stdout, sys.stderr
    try:
        from embedding_service.backend.conversion import convert

        convert(order, out)
    except StartupError as error:
        print(error, file=answer, flush=True)
        return 1
    return 0


def _end_with_parent() -> None:
    """The parent holds the other end of standard input open, and writes nothing."""
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
