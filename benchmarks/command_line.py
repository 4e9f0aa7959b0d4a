"""What the benchmarks' command lines have in common."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.load_generator import Setting
from benchmarks.sides import CACHE, PRECISIONS, SIDES, Model, find_model


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser with ``--cache`` and ``--out``."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--cache",
        type=Path,
        default=CACHE,
        metavar="FOLDER",
        help=f"models that were made and prepared before; default {CACHE}",
    )
    add_out(made, name)
    return made


def add_out(parser: argparse.ArgumentParser, name: str) -> None:
    """Add ``--out``, by default ``NAME.json`` beside the benchmarks' models."""
    usual = CACHE / f"{name}.json"
    parser.add_argument(
        "--out",
        type=Path,
        default=usual,
        metavar="FILE",
        help=f"gets every figure, as JSON; default {usual}",
    )


def add_rounds(parser: argparse.ArgumentParser, usual: int = 3) -> None:
    """Add ``--rounds``: how often each figure is measured."""
    parser.add_argument(
        "--rounds", type=positive, default=usual, metavar="N", help=f"default {usual}"
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default cpu")


def has_cuda() -> bool:
    """Return whether there is a CUDA device on this machine."""
    import torch

    return torch.cuda.is_available()


def add_models(parser: argparse.ArgumentParser) -> None:
    """Add ``--model``, which ``models`` reads."""
    parser.add_argument(
        "--model",
        type=_separated,
        default="nomic,minilm",
        metavar="NAMES",
        help="some of nomic, minilm, a folder; default nomic,minilm",
    )


def add_texts(parser: argparse.ArgumentParser) -> None:
    """Add ``--texts``: how many are sent."""
    parser.add_argument(
        "--texts", type=positive, metavar="N", help="default 64 chunks, or 640 short texts"
    )


def add_precisions(
    parser: argparse.ArgumentParser, usual: str | None, *, said: str | None = None
) -> None:
    """Add ``--precisions``; ``said`` is what they are by default where that depends on others."""
    parser.add_argument(
        "--precisions",
        type=precisions,
        default=usual,
        metavar="NAMES",
        help=f"some of {', '.join(PRECISIONS)}; default {said or usual}",
    )


def models(asked: argparse.Namespace) -> Iterator[Model]:
    """Yield the models of ``--model``; the nomic-shaped one is made when it comes up.

    Raises:
        SystemExit: There is no such model, or it cannot be served.
    """
    for name in asked.model:
        yield model(name, asked.cache)


def model(name: str, cache: Path) -> Model:
    """As ``models``, for one of them."""
    from embedding_service.errors import ModelRefused

    cache.mkdir(parents=True, exist_ok=True)
    try:
        return find_model(name, cache)
    except ModelRefused as error:
        raise SystemExit(str(error)) from error


def _separated(text: str) -> list[str]:
    return text.split(",")


def positive(text: str) -> int:
    """Return the whole number in ``text``, at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)


def setting(text: str) -> Setting:
    """Return the setting written as ``4x2``."""
    try:
        return Setting.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def settings(text: str) -> list[Setting]:
    """Return the settings in a list such as ``4x2,8x4``."""
    return [setting(item) for item in text.split(",")]


def sides(text: str) -> list[str]:
    """Return the sides in a list such as ``reference,bf16``."""
    return _some_of(SIDES, text)


def precisions(text: str) -> list[str]:
    """Return the precisions in a list such as ``fp32,bf16``."""
    return _some_of(PRECISIONS, text)


def precision(text: str) -> str:
    """Return the one precision in ``text``."""
    [found] = _some_of(PRECISIONS, text)
    return found


def _some_of(known: Sequence[str], text: str) -> list[str]:
    found = text.split(",")
    for name in found:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r}: expected some of {', '.join(known)}")
    return found
