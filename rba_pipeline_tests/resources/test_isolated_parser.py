"""Whatever a file does to the parser: the file has a reason, and the next one is parsed."""

import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from importlib.resources import files as package_files
from pathlib import Path

import psutil
import pytest

from rba_pipeline.core.documents import Parsed, Section, Stated
from rba_pipeline.core.errors import (
    BadSetting,
    DocumentRejected,
    ParserUnavailable,
    ParsingStopped,
)
from rba_pipeline.core.parsing.files import parse
from rba_pipeline.core.parsing.limits import DEFAULT_LIMITS, LIMITS, ParseLimits
from rba_pipeline.resources.isolated_parser import IsolatedParser, OutOfTime, ended
from rba_pipeline.resources.parser_messages import (
    ParserBroke,
    ParserOutOfMemory,
    answer,
    failure,
    refusal,
    told,
)
from rba_pipeline_tests.installation import ROOT
from rba_pipeline_tests.resources.corpus import Corpus, text_of

POISONED = "rba_pipeline_tests.resources.poisoned_child"
DAY = Stated("a.txt", date="2012-05-03")
HASTY = ParseLimits(max_parse_s=1)


def children() -> list[psutil.Process]:
    """Return the parser processes of this one."""
    return [child for child in psutil.Process().children() if {"-P", "-m"} < set(child.cmdline())]


def told_by(parser: IsolatedParser, raw: bytes) -> str:
    """Return the text of a file, or the reason code that there is none."""
    try:
        return parser.parse(raw, path="a.txt", stated=DAY).sections[0].text
    except DocumentRejected as rejected:
        return rejected.reason


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path)


@pytest.fixture
def poisoned() -> Iterator[IsolatedParser]:
    with IsolatedParser(program=POISONED) as parser:
        yield parser


# What is parsed


def test_a_file_is_parsed_as_in_this_process() -> None:
    sample = package_files("rba_pipeline") / "sample_corpus"
    raw = {
        path: (sample / path).read_bytes()
        for path in ("publications/2022/vault-drill.pdf", "notes/on-the-office-clock.txt")
    }

    with IsolatedParser() as parser:
        for path, content in raw.items():
            expected = parse(content, path=path, stated=DAY)
            assert parser.parse(content, path=path, stated=DAY) == expected


def test_one_process_parses_many_files_refused_ones_among_them() -> None:
    with IsolatedParser() as parser:
        assert children() == []
        assert told_by(parser, b"words") == "words"
        first = children()
        assert told_by(parser, b"") == "empty"
        assert told_by(parser, b"x" * 3_000_000)[:3] == "xxx"
        assert children() == first

    assert len(first) == 1
    assert children() == []


def test_the_kernel_bounds_the_memory_of_the_process_that_parses() -> None:
    most = 256 * 2**20
    with IsolatedParser(ParseLimits(max_parse_memory_bytes=most)) as parser:
        assert told_by(parser, b"words") == "words"

        [child] = children()
        assert child.rlimit(resource.RLIMIT_AS) == (most, most)


# What breaks it


@pytest.mark.parametrize(
    ("poison", "reason", "detail"),
    [
        pytest.param(f"signal {signal.SIGSEGV:d}", "crashed", "ended by SIGSEGV", id="crash"),
        pytest.param(f"signal {signal.SIGABRT:d}", "bomb", "RBA_MAX_PARSE_MEMORY", id="abort"),
        pytest.param(f"signal {signal.SIGXCPU:d}", "timeout", "RBA_MAX_PARSE_S", id="seconds"),
        pytest.param(f"signal {signal.SIGKILL:d}", "killed", "twice by SIGKILL", id="killed-twice"),
        pytest.param("exit 3", "crashed", "status 3", id="exit"),
        pytest.param("raise private words", "crashed", "IndexError at poisoned", id="exception"),
        pytest.param(f"allocate {2**40}", "bomb", "1,073,741,824 bytes", id="memory"),
    ],
)
def test_a_file_that_breaks_the_parser_has_a_reason_and_the_next_is_parsed(
    poisoned: IsolatedParser, poison: str, reason: str, detail: str
) -> None:
    assert told_by(poisoned, b"before") == "before"

    with pytest.raises(DocumentRejected) as caught:
        poisoned.parse(poison.encode(), path="a.txt", stated=DAY)

    assert caught.value.reason == reason
    assert detail in caught.value.detail
    assert "private" not in caught.value.detail
    assert told_by(poisoned, b"after") == "after"


def test_a_file_that_never_ends_is_stopped_by_the_clock_though_it_computes_nothing() -> None:
    with IsolatedParser(HASTY, POISONED) as parser:
        assert told_by(parser, b"wait") == "timeout"
        assert told_by(parser, b"after") == "after"


def test_a_file_that_takes_longer_than_somebody_in_haste_waits_is_not_blamed() -> None:
    with IsolatedParser(program=POISONED, file_s=0.05) as parser:
        with pytest.raises(OutOfTime):
            told_by(parser, b"wait")

        assert children() == []


# What is not the file's doing


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_process_that_ended_between_two_files_is_replaced(number: signal.Signals) -> None:
    with IsolatedParser() as parser:
        assert told_by(parser, b"before") == "before"
        [child] = children()
        child.send_signal(number)
        # It has ended; whoever started it has yet to find out.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

        assert told_by(parser, b"after") == "after"
        assert children() != [child]


def test_a_process_that_somebody_stopped_is_replaced_and_the_file_parsed() -> None:
    with IsolatedParser(HASTY) as parser:
        assert told_by(parser, b"before") == "before"
        children()[0].suspend()

        assert told_by(parser, b"after") == "after"


# A process of its own: a signal that comes when nobody expects it ends this one, not the tests.
INTERRUPTED = f"""
import signal
import psutil
from rba_pipeline.core.documents import Stated
from rba_pipeline.resources.isolated_parser import IsolatedParser
class Interrupted(Exception): pass
def interrupt(number, frame):
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    raise Interrupted
signal.signal(signal.SIGUSR1, interrupt)
day = Stated("a.txt", date="2012-05-03")
with IsolatedParser(program="{POISONED}") as parser:
    try:
        parser.parse(b"interrupt", path="a.txt", stated=day)
    except Interrupted:
        print("interrupted", len(psutil.Process().children()))
    print(parser.parse(b"after", path="a.txt", stated=day).sections[0].text)
"""


def test_an_interruption_leaves_no_answer_behind_for_the_next_file() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, "interrupted 0\nafter\n"), done.stderr


@contextmanager
def files_left(count: int) -> Iterator[None]:
    """Let this process open ``count`` more files."""
    lowest = os.dup(0)
    os.close(lowest)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_where_no_process_can_be_started_no_file_is_blamed() -> None:
    with IsolatedParser() as parser:
        with files_left(1), pytest.raises(ParserUnavailable, match="Too many open files"):
            told_by(parser, b"words")

        assert told_by(parser, b"words") == "words"


def test_a_program_that_does_not_start_is_no_file_s_fault() -> None:
    with (
        IsolatedParser(program="rba_pipeline.no_such_module") as parser,
        pytest.raises(ParserUnavailable, match="exit status 1"),
    ):
        told_by(parser, b"words")


# What it may know and touch


def test_it_sees_no_secret_and_no_open_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDING_API_KEY", "hush")
    with IsolatedParser() as parser:
        told_by(parser, b"words")
        [child] = children()

        assert set(child.environ()) <= {"PYTHONPATH", "LD_LIBRARY_PATH", "LC_CTYPE"}
        assert "hush" not in " ".join(child.cmdline())
        # Standard input, output and error, and the pipe that took the place of output.
        assert child.num_fds() == 4


def test_it_prints_nothing(poisoned: IsolatedParser, capfd: pytest.CaptureFixture[str]) -> None:
    told_by(poisoned, b"print private words")

    assert capfd.readouterr() == ("", "")


PARENT = f"""
import psutil
from rba_pipeline.core.documents import Stated
from rba_pipeline.resources.isolated_parser import IsolatedParser
parser = IsolatedParser(program="{POISONED}")
day = Stated("a.txt", date="2012-05-03")
parser.parse(b"words", path="a.txt", stated=day)
print(psutil.Process().children()[0].pid, flush=True)
parser.parse(POISON, path="a.txt", stated=day)
"""


@pytest.mark.parametrize("poison", ["words", "wait"], ids=["idle", "busy"])
def test_it_ends_with_its_parent(poison: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.replace("POISON", repr(poison.encode()))],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert parent.stdout is not None
    child = os.pidfd_open(int(parent.stdout.readline()))
    try:
        if poison == "wait":
            parent.kill()
        parent.wait(30)

        assert select.select([child], [], [], 10)[0] == [child]
    finally:
        os.close(child)
        parent.stdout.close()


def test_a_corpus_without_changes_starts_no_process(corpus: Corpus) -> None:
    corpus.put("a.txt", text_of("3 May 2012"))
    corpus.refresh()
    seen: list[int] = []

    with files_left(3):
        corpus.source().refresh(date(2024, 6, 1), lambda done, total: seen.append(done))

    assert seen == []


# Messages


PARSED = Parsed(
    "A title", None, "s", date(2012, 5, 3), "manifest", (Section("", 0, 3, "caf\u00e9 \U0001f52c"),)
)


def test_a_parsed_file_arrives_as_it_was_sent() -> None:
    assert told(answer(PARSED)) == PARSED


@pytest.mark.parametrize(
    "error",
    [
        DocumentRejected("empty", "no content"),
        ParsingStopped("bomb", "too much"),
        ParserBroke("IndexError"),
        ParserOutOfMemory("MemoryError"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_refusal_arrives_as_what_it_was(error: Exception) -> None:
    sent = refusal(error) if isinstance(error, DocumentRejected) else failure(error)  # type: ignore[arg-type]

    with pytest.raises(type(error)) as caught:
        told(sent)

    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"\xff", b"[]", b"{}", b'{"other": []}', b'{"parsed": {}}', b'{"rejected": ["a"]}',
        b'{"parsed": [], "broke": []}', b'{"parsed": {"published_on": 1, "sections": []}}',
    ],
)  # fmt: skip
def test_what_is_no_answer_is_a_broken_parser(payload: bytes) -> None:
    with pytest.raises(ParserBroke, match="no sense"):
        told(payload)


def test_an_end_by_an_unnamed_signal_has_a_reason_as_well() -> None:
    assert "signal 50" in ended(-50, DEFAULT_LIMITS).refusal.detail


# Limits


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_out_of_range_is_refused_with_range_and_variable(name: str) -> None:
    low, high = LIMITS[name].low, LIMITS[name].high

    for value in (low, high):
        ParseLimits(**{name: value})
    for wrong in (low - 1, high + 1, True):
        with pytest.raises(BadSetting, match=rf"{name}={wrong}: .* {high:,} .*RBA_{name.upper()}"):
            ParseLimits(**{name: wrong})
