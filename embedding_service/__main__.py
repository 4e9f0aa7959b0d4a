"""``python -m embedding_service``: serve one model over HTTP."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from embedding_service.errors import StartupError
from embedding_service.settings import PREFIX, Settings, read_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until stopped; return 0, 1 after a breakdown, 2 if settings or model are refused."""
    asked = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    _share_the_cores()
    given = {"host": asked.host, "port": asked.port}
    try:
        settings = read_settings(**{name: v for name, v in given.items() if v is not None})
        # After the settings: what is wrong with them is said at once.
        from embedding_service import server

        return server.run(settings, ready_fd=asked.ready_fd)
    except StartupError as error:
        print(error, file=sys.stderr)
        return 2


def _share_the_cores() -> None:
    """Set what the libraries below read once, when they are loaded."""
    # The model has the cores; a tokenizer with threads of its own would take them away.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # By default a thread that is done with its part of an operation spins until the others are.
    # With one other busy process on two cores that more than halved the speed: 1,380 tokens/s
    # against 3,030 (MiniLM, texts of about 90 tokens). Alone, both are within the machine's noise.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m embedding_service",
        description="Serve one embedding model over HTTP.",
        epilog=_environment(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", help=f"address to listen on, before {PREFIX}HOST")
    parser.add_argument("--port", help=f"port to listen on, before {PREFIX}PORT; 0: any free one")
    parser.add_argument(
        "--ready-fd",
        type=int,
        metavar="N",
        help="open file descriptor that gets a line of JSON (port, pid) when the service is ready",
    )
    return parser


def _environment() -> str:
    lines = ["settings, from the environment:"]
    for name, field in Settings.model_fields.items():
        lines.append(f"  {PREFIX}{name.upper():<20} {field.description}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
