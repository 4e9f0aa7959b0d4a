"""Switch off one defence of the product at a time, and see the case fail that it is for.

Everything happens in a copy of the project. First the tests run as they are, and must pass. Returns
0 if every defence was missed by its case, else 1.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rba_pipeline_tests.mutations.defences import DEFENCES, Defence

ROOT = Path(__file__).resolve().parents[2]
COPIED = (
    "rba_pipeline", "embedding_service", "rba_pipeline_tests", "benchmarks", "pyproject.toml",
    "dagster.yaml", "workspace.yaml",
)  # fmt: skip
_TEST_S, _FIRST_S = 180, 900
# A test that hangs without its defence has failed as well: by its own deadline, told as such.
_LATE = "by its deadline"
_BROKEN = re.compile(r"^E +(NameError|UnboundLocalError|AttributeError|ImportError):", re.MULTILINE)
_OPTIONS = ("-q", "-x", "-p", "no:cacheprovider", "--timeout=75", "-o", "timeout_method=signal")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the tests said: ``passed``, ``failed``, ``by its deadline``, or why they could say
    none of these.
    """

    said: str
    seconds: float
    output: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the defences, print a table, and return 0 if every one was missed."""
    asked = _parser().parse_args(arguments)
    chosen = [each for each in DEFENCES if not asked.only or asked.only in each.name + each.case]
    if not chosen:
        raise SystemExit(f"no defence has {asked.only!r} in its name; --list names them")
    if asked.list:
        print("\n".join(f"{each.case:<4} {each.name}  ({each.file})" for each in chosen))
        return 0
    with copied(ROOT) as tree:
        missed = check(tree, chosen)
    print(f"{missed} of {len(chosen)} defences were missed by their case when they were off")
    return 0 if missed == len(chosen) else 1


def check(tree: Path, defences: Sequence[Defence]) -> int:
    """Print a line for each defence; return how many were missed when they were off.

    Raises:
        SystemExit: The tests do not even pass with all defences on.
    """
    tests = list(dict.fromkeys(each.test for each in defences))
    print(f"{len(tests)} tests with every defence on ...", flush=True)
    usual = run(tree, tests, _FIRST_S)
    if usual.said != "passed":
        raise SystemExit(f"{usual.said} with every defence on:\n{usual.output[-4000:]}")
    print(
        f"passed in {usual.seconds:.0f} s\n\ncase  result           seconds  defence that was off"
    )
    missed = 0
    for each in defences:
        with switched_off(tree, each):
            verdict = run(tree, [each.test], _TEST_S)
        result = {"failed": "missed", _LATE: _LATE}.get(verdict.said, "NOT SEEN")
        missed += result != "NOT SEEN"
        print(f"{each.case:<5} {result:<15} {verdict.seconds:8.1f}  {each.name}", flush=True)
        if result == "NOT SEEN":
            print(f"      {each.test}: {verdict.said}\n{verdict.output[-1500:]}")
    return missed


@contextmanager
def copied(root: Path) -> Iterator[Path]:
    """Have a copy of the project for the block."""
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        tree = Path(folder)
        for name in COPIED:
            if (root / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(root / name, tree / name, ignore=ignored)
            else:
                shutil.copy(root / name, tree / name)
        yield tree


@contextmanager
def switched_off(tree: Path, defence: Defence) -> Iterator[None]:
    """Have one defence off for the block.

    Raises:
        ValueError: Its text is not in its file, or more than once.
    """
    file = tree / defence.file
    before = file.read_text(encoding="utf-8")
    if (found := before.count(defence.old)) != 1:
        raise ValueError(f"{defence.name}: its text is {found} times in {defence.file}")
    file.write_text(before.replace(defence.old, defence.new), encoding="utf-8")
    try:
        yield
    finally:
        file.write_text(before, encoding="utf-8")


def run(tree: Path, tests: Sequence[str], within_s: float) -> Verdict:
    """Run ``tests`` in ``tree``, and end whatever they leave behind."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *_OPTIONS, *tests],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=within_s)
        said = {0: "passed", 1: "failed"}.get(process.returncode, f"exit {process.returncode}")
        # Without this line something broke before a test could fail; the errors are of code that
        # does not even run.
        if said == "failed" and (" failed" not in output or _BROKEN.search(output)):
            said = "broke"
        elif said == "failed" and "from pytest-timeout" in output:
            said = _LATE
    except subprocess.TimeoutExpired as late:
        output = str(late.output or "")
        said = f"no end within {within_s:.0f} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return Verdict(said, time.monotonic() - began, output)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mutations", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="those with TEXT in their name")
    parser.add_argument("--list", action="store_true", help="name them, and do nothing else")
    return parser


if __name__ == "__main__":
    sys.exit(main())
