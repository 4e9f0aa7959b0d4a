"""One life of the parser process: started, asked one question after another, and killed."""

import json
import os
import selectors
import subprocess
import sys
import time
from dataclasses import asdict

from rba_pipeline.core.errors import ParserUnavailable
from rba_pipeline.core.parsing.limits import ParseLimits
from rba_pipeline.resources.parser_messages import LENGTH, READY, ParserBroke, longest_answer

PROGRAM = "rba_pipeline.resources.parser_child"
START_S = 60
_READ_BYTES = 2**20
# Where the interpreter's own library may lie. Keys and passwords are none of the parser's business.
_PASSED_ON = ("LD_LIBRARY_PATH",)


class ParserProcess:
    """A child that answers questions in turn; to be ended by the thread that made it.

    Attributes:
        questions: How many it was asked.
    """

    def __init__(self, limits: ParseLimits, program: str = PROGRAM) -> None:
        """Start it, and wait until it is ready.

        Raises:
            ParserUnavailable: It cannot be started, or does not get ready within a minute.
        """
        self.questions = 0
        self._longest_answer = longest_answer(limits)
        command = [sys.executable, "-P", "-m", program, json.dumps(asdict(limits))]
        try:
            # A session of its own: Ctrl-C in a terminal is the parent's business.
            self._process = subprocess.Popen(
                [*command, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env=_environment(),
                start_new_session=True,
            )
        except OSError as error:
            raise ParserUnavailable(
                f"the parser process cannot be started: {error}. No file was blamed for it, and "
                "what was parsed is kept. Try again when the machine has room"
            ) from error
        try:
            self._wait_until_ready()
        except BaseException:
            self.end()
            raise

    def ask(self, question: bytes, timeout_s: float) -> bytes | None:
        """Return the answer; ``None`` if the process ended instead.

        Raises:
            TimeoutError: Neither came to pass within ``timeout_s`` seconds.
            ParserBroke: The answer is longer than any may be.
        """
        self.questions += 1
        return self._exchange(question, timeout_s)

    def end(self) -> int:
        """Kill the process unless it has ended; return its exit status as ``Popen`` has it."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        return self._process.wait()

    def _wait_until_ready(self) -> None:
        for pipe in self._pipes():
            os.set_blocking(pipe, False)
        try:
            is_ready = self._exchange(b"", START_S) == READY
        except (TimeoutError, ParserBroke):
            is_ready = False
        if not is_ready:
            raise ParserUnavailable(
                f"the parser process did not get ready (exit status {self.end()}): its own message "
                "is on standard error. No file was blamed for it, and what was parsed is kept"
            )

    def _pipes(self) -> tuple[int, int]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("Popen made no pipes; this is a bug in the parser process")
        return stdin.fileno(), stdout.fileno()

    def _exchange(self, question: bytes, timeout_s: float) -> bytes | None:
        deadline = time.monotonic() + timeout_s
        questions, answers = self._pipes()
        unsent, received = memoryview(question), bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(answers, selectors.EVENT_READ)
            if unsent:
                selector.register(questions, selectors.EVENT_WRITE)
            while not self._is_whole(received):
                left_s = deadline - time.monotonic()
                ready = {key.fd for key, _ in selector.select(left_s)} if left_s > 0 else set()
                if not ready:
                    raise TimeoutError
                if questions in ready:
                    unsent = _sent(questions, unsent)
                    if not unsent:
                        selector.unregister(questions)
                if answers in ready:
                    piece = os.read(answers, _READ_BYTES)
                    if not piece:
                        return None
                    received += piece
        return bytes(received[LENGTH.size :])

    def _is_whole(self, received: bytearray) -> bool:
        if len(received) < LENGTH.size:
            return False
        length = int(LENGTH.unpack_from(received)[0])
        if length > self._longest_answer or len(received) > LENGTH.size + length:
            raise ParserBroke("its answer is longer than any may be")
        return len(received) == LENGTH.size + length


def _sent(pipe: int, unsent: memoryview) -> memoryview:
    """Return what is left to send; nothing if nobody reads any more, which the answers will say."""
    try:
        return unsent[os.write(pipe, unsent) :]
    except BrokenPipeError:
        return unsent[:0]


def _environment() -> dict[str, str]:
    """Return the child's whole environment: where the modules of this process come from."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
