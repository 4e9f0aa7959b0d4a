"""The commands that README and docs name, for the tests that run them.

Commands are the lines of blocks of bash, and all code within a sentence or table that begins with
a program of ours or a command of ``rba-pipeline``. Names like ``ID`` stand for values.
"""

import re
import shlex
from collections.abc import Iterator

from rba_pipeline.cli import main
from rba_pipeline_tests.installation import ROOT

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks/README.md")
TEXT = "\n".join(page.read_text() for page in PAGES)
PROGRAMS = {"make", "rba-pipeline", "dagster", "python", "docker"}


def words_of(line: str) -> list[str]:
    """Return the words of a command, with its program as on the path, and no variables before."""
    words = shlex.split(line, comments=True)
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    return [words[0].removeprefix(".venv/bin/"), *words[1:]] if words else []


def commands() -> Iterator[list[str]]:
    """Yield the words of every command in a block of bash."""
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.S):
        for line in block.replace("\\\n", " ").splitlines():
            if words := words_of(line):
                yield words


def mentions() -> Iterator[list[str]]:
    """Yield the words of every command in a sentence or a table."""
    for code in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", TEXT, flags=re.S)):
        program, _, arguments = code.removeprefix(".venv/bin/").partition(" ")
        if program in PROGRAMS:
            yield words_of(code)
        elif program in main.commands and arguments:
            yield ["rba-pipeline", *words_of(code)]


def named(program: str, *first: str) -> list[list[str]]:
    """Return the arguments of all calls of one program, wherever they are; each once.

    Args:
        first: Only those that begin with these words.
    """
    found = dict.fromkeys(tuple(words) for words in (*commands(), *mentions()))
    start = (program, *first)
    return [list(words[1:]) for words in found if words[: len(start)] == start]


def of_a_daemon() -> list[list[str]]:
    """Return the arguments of ``rba-pipeline`` that need a daemon: it makes runs of them, or is
    examined. Sorted.
    """
    backfills = [words for words in named("rba-pipeline", "backfill") if len(words) > 1]
    launching = [words for words in backfills if "--dry-run" not in words]
    return sorted([*launching, *named("rba-pipeline", "doctor")])
