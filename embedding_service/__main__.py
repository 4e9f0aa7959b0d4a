"""``python -m embedding_service``: serve one model over HTTP, or check it."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence

from embedding_service import logs
from embedding_service.errors import StartupError
from embedding_service.settings import PREFIX, Settings, described, misspelt, read_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is asked for and return the exit code.

    Returns:
        0 after an orderly end, 1 after a breakdown or a check that failed, 2 if settings or model
        are refused.
    """
    asked = _parser().parse_args(arguments)
    _wait_without_spinning()
    given = {"host": asked.host, "port": asked.port}
    try:
        settings = read_settings(**{name: v for name, v in given.items() if v is not None})
        logs.configure(settings.log_format)
        for name, meant in misspelt(os.environ).items():
            logging.warning("%s is no setting, and does nothing; %s is one", name, meant)
        # After the settings: what is wrong with them is said at once.
        if asked.command == "check":
            from embedding_service import check

            return check.run(settings, check.Extent(asked.batches, asked.threads, asked.seed))
        from embedding_service import server

        return server.run(settings, ready_fd=asked.ready_fd)
    except StartupError as error:
        print(error, file=sys.stderr)
        return 2


def _wait_without_spinning() -> None:
    """Set what the libraries below read once, when they are loaded."""
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
    _add_check(parser.add_subparsers(dest="command", title="instead of serving"))
    return parser


def _add_check(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    check = commands.add_parser(
        "check",
        help="prove that a text's vector does not depend on what is computed beside it",
        description="Compare vectors from random batches with those of the same texts alone, for "
        "the model of the settings; 0 if they agree, 1 if not.",
    )
    usual = {"batches": 60, "threads": 8, "seed": 0}
    meaning = {
        "batches": "random batches, at least; one in twenty has long texts if the model takes any",
        "threads": "callers at once",
        "seed": "decides the texts, and who asks for which",
    }
    for name, default in usual.items():
        least = 0 if name == "seed" else 1
        check.add_argument(
            f"--{name}",
            type=_at_least(least),
            default=default,
            metavar="N",
            help=f"{meaning[name]}; from {least}, {default} if not given",
        )


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        found = int(text)
        if found < least:
            raise argparse.ArgumentTypeError(f"expected at least {least}, got {found}")
        return found

    return number


def _environment() -> str:
    lines = ["settings, from the environment:"]
    for name, field in Settings.model_fields.items():
        lines.append(f"  {PREFIX}{name.upper():<20} {described(field)}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
