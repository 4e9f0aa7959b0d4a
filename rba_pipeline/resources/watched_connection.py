"""A connection to Postgres that notices when the server, though connected, answers nobody."""

import time
from typing import Self

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow
from psycopg.waiting import Ready

# Bounds of statements and of locks are the server's own, and the network's keep-alives are answered
# by its kernel: from a server that hangs as a whole, neither ever comes.
SILENCE_S = 60.0
ASKED_IN_VAIN = 3


class WatchedConnection(psycopg.Connection[TupleRow]):
    """A connection whose waiting ends, though a statement may take as long as the server lets it.

    While nothing comes, a second connection asks now and then whether the server lets anybody in;
    any answer, a refusal among them, is a sign of life.
    """

    _address = ""
    _silence_s = SILENCE_S

    @classmethod
    def to(cls, address: str, *, silence_s: float = SILENCE_S) -> Self:
        """Connect, outside of any transaction.

        Args:
            address: As psycopg takes it; its ``connect_timeout`` bounds each question.
            silence_s: Seconds without a byte after which the server is asked, each time anew.

        Raises:
            psycopg.OperationalError: No connection. So does whatever waits for the server later,
                once that was asked in vain ``ASKED_IN_VAIN`` times in a row.
        """
        connection = cls.connect(address, autocommit=True)
        connection._address, connection._silence_s = address, silence_s
        return connection

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Wait as psycopg does, and watch the server meanwhile."""
        return super().wait(self._watched(gen), interval, timeout)

    def _watched(self, gen: PQGen[RV]) -> PQGen[RV]:
        heard_s, in_vain = time.monotonic(), 0
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if ready != Ready.NONE:
                    heard_s, in_vain = time.monotonic(), 0
                elif time.monotonic() - heard_s >= self._silence_s:
                    in_vain = 0 if self._somebody_answers() else in_vain + 1
                    if in_vain == ASKED_IN_VAIN:
                        self.close()
                        raise psycopg.OperationalError(
                            f"the server is connected, but has answered nobody for "
                            f"{ASKED_IN_VAIN * self._silence_s:g} s"
                        )
                    heard_s = time.monotonic()
                wanted = gen.send(ready)
        except StopIteration as end:
            done: RV = end.value
            return done

    def _somebody_answers(self) -> bool:
        # The same server, where the address names several.
        info = self.info
        there = make_conninfo(
            self._address, host=info.host, hostaddr=info.hostaddr or None, port=info.port
        )
        try:
            psycopg.connect(there).close()
        except psycopg.errors.ConnectionTimeout:
            return False
        except psycopg.OperationalError:
            pass
        return True
