"""Parsing in a process of its own: whatever a file does to it, the run goes on."""

import signal
from types import TracebackType
from typing import Self

from rba_pipeline.core.documents import Parsed, Stated
from rba_pipeline.core.errors import DocumentRejected, ParsingStopped
from rba_pipeline.core.parsing.limits import DEFAULT_LIMITS, ParseLimits
from rba_pipeline.resources.parser_messages import ParserBroke, ParserOutOfMemory, question, told
from rba_pipeline.resources.parser_process import PROGRAM, ParserProcess

# A busy machine may take this many times longer than the file computes.
PATIENCE = 4
# No parser ends like this by itself. The kernel does it where a machine is short of memory.
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class Unanswered(Exception):
    """A process came to no answer.

    Attributes:
        refusal: What to say of the file, if it is to blame.
        from_outside: The same file may well be answered in another process.
    """

    def __init__(self, refusal: DocumentRejected, *, from_outside: bool = False) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal
        self.from_outside = from_outside


class OutOfTime(Exception):
    """A file takes longer than somebody in haste waits for it; it is not to blame."""


class IsolatedParser:
    """Parses files in one process: started for the first, kept, replaced when it breaks.

    To be closed, as a context manager, by the thread that uses it.
    """

    def __init__(
        self,
        limits: ParseLimits = DEFAULT_LIMITS,
        program: str = PROGRAM,
        file_s: float | None = None,
    ) -> None:
        """Name the limits; no process is started.

        Args:
            file_s: How long to wait for one file, where its own limits let it take longer.
        """
        self.limits = limits
        self._file_s = file_s
        self._program = program
        self._process: ParserProcess | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process, if there is one; the next file starts another."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def parse(self, raw: bytes, *, path: str, stated: Stated | None) -> Parsed:
        """Return what a file is made of, or say why it is no document.

        A file is charged only with what it did to a process that had parsed nothing before it: what
        an earlier file left behind, or somebody outside did, costs another try in a new process.

        Raises:
            DocumentRejected: As ``core.parsing.files.parse`` says; or ``killed``, from outside,
                twice; or ``timeout``, when it neither answered nor computed for long, twice.
            ParsingStopped: ``too_many_pages``, ``too_large``, ``timeout``, ``bomb`` (memory) or
                ``crashed``.
            ParserUnavailable: No process can be started.
            OutOfTime: It takes longer than ``file_s``.
        """
        asking = question(raw, path=path, stated=stated)
        for is_last in (False, True):
            if self._process is None:
                self._process = ParserProcess(self.limits, self._program)
            is_first_file = self._process.questions == 0
            try:
                return self._asked(self._process, asking)
            except Unanswered as unanswered:
                self.close()
                if is_last or (is_first_file and not unanswered.from_outside):
                    raise unanswered.refusal from None
            except DocumentRejected:
                raise
            except BaseException:
                # Interrupted between question and answer, it would give the next file this answer.
                self.close()
                raise
        raise RuntimeError("the last try neither answers nor refuses; this is a bug in the parser")

    def _asked(self, process: ParserProcess, asking: bytes) -> Parsed:
        patience_s: float = PATIENCE * self.limits.max_parse_s
        wait_s = patience_s if self._file_s is None else min(self._file_s, patience_s)
        try:
            answer = process.ask(asking, wait_s)
            if answer is not None:
                return told(answer)
        except TimeoutError:
            if wait_s < patience_s:
                raise OutOfTime from None
            raise Unanswered(overdue(self.limits), from_outside=True) from None
        except ParserOutOfMemory:
            raise Unanswered(out_of_memory(self.limits)) from None
        except ParserBroke as broke:
            raise Unanswered(ParsingStopped("crashed", f"the parser failed: {broke}")) from None
        raise ended(process.end(), self.limits)


def ended(status: int, limits: ParseLimits) -> Unanswered:
    """Return what the end of a process without an answer says of its file.

    Args:
        status: As ``Popen.returncode``: negative for a signal.
    """
    if status >= 0:
        return Unanswered(ParsingStopped("crashed", f"the parser ended with status {status}"))
    name = next((known.name for known in signal.Signals if known == -status), f"signal {-status}")
    if -status == signal.SIGXCPU:
        return Unanswered(ParsingStopped("timeout", limits.exceeded("max_parse_s")))
    if -status == signal.SIGABRT:
        # PDFium ends its process like this when it is denied memory.
        return Unanswered(out_of_memory(limits))
    if -status in _FROM_OUTSIDE:
        detail = f"the parser was ended twice by {name}, as on a machine that is short of memory"
        return Unanswered(DocumentRejected("killed", detail), from_outside=True)
    return Unanswered(ParsingStopped("crashed", f"the parser was ended by {name}"))


def overdue(limits: ParseLimits) -> DocumentRejected:
    """Return the refusal of a file whose parser neither computed for too long nor answered."""
    seconds = PATIENCE * limits.max_parse_s
    return DocumentRejected(
        "timeout", f"no answer within {seconds:,} s, twice, though it hardly computed; tried again"
    )


def out_of_memory(limits: ParseLimits) -> ParsingStopped:
    """Return the refusal of a file that wants more memory than there is for it."""
    return ParsingStopped("bomb", limits.exceeded("max_parse_memory_bytes"))
