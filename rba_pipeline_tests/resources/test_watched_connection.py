"""A Postgres of the test's own, all of which is stopped as a hanging machine would stop it."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import psycopg
import pytest
from psycopg import sql

from rba_pipeline.core.errors import DatabaseUnavailable
from rba_pipeline.resources.refusals import refusal_of
from rba_pipeline.resources.watched_connection import ASKED_IN_VAIN, WatchedConnection
from rba_pipeline_tests.faults.cluster import Cluster

pytestmark = pytest.mark.postgres

SILENCE_S = 0.5
# The shortest that psycopg takes, in seconds.
CONNECT_S = 2
LONGER_THAN_ALL_QUESTIONS_S = ASKED_IN_VAIN * SILENCE_S + 1
DEADLINE_S = 30


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with Cluster() as cluster:
        yield f"{cluster.new_database()}?connect_timeout={CONNECT_S}"


@pytest.fixture
def connection(address: str) -> Iterator[WatchedConnection]:
    with WatchedConnection.to(address, silence_s=SILENCE_S) as connection:
        yield connection


@contextmanager
def hanging(connection: psycopg.Connection) -> Iterator[None]:
    """Stop the server with all that it has started, the process of ``connection`` among them."""
    server = psutil.Process(connection.info.backend_pid).parent()
    assert server is not None
    stopped = [server, *server.children()]
    for process in stopped:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in stopped:
            process.send_signal(signal.SIGCONT)


def test_a_server_that_answers_nobody_is_given_up_as_lost(connection: WatchedConnection):
    began_s = time.monotonic()
    with hanging(connection), pytest.raises(psycopg.OperationalError, match="answered nobody") as e:
        connection.execute("SELECT 1")
    refused = refusal_of(e.value)
    assert (refused.kind, refused.is_lost, refused.passes) == (DatabaseUnavailable, True, True)
    assert connection.closed
    assert time.monotonic() - began_s < DEADLINE_S


def test_so_is_one_that_stops_taking_rows(connection: WatchedConnection):
    connection.execute("CREATE TEMPORARY TABLE line (content text)")
    line = "x" * 100_000 + "\n"

    def copy() -> None:
        with connection.cursor() as cursor, cursor.copy("COPY line FROM STDIN") as copy:
            copy.write(line)
            with hanging(connection):
                while True:
                    copy.write(line)

    with pytest.raises(psycopg.OperationalError, match="answered nobody"):
        copy()


def test_a_long_statement_of_a_server_that_lets_others_in_is_waited_for(
    connection: WatchedConnection,
):
    assert takes_long(connection) == ("done",)


def test_so_is_one_of_a_server_that_refuses_others(connection: WatchedConnection, address: str):
    database = sql.Identifier(connection.info.dbname)
    with psycopg.connect(address, dbname="postgres", autocommit=True) as other:
        other.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(database))
        try:
            assert takes_long(connection) == ("done",)
        finally:
            other.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(database))


def takes_long(connection: psycopg.Connection) -> tuple[str, ...] | None:
    statement = "SELECT 'done' FROM pg_sleep(%s)"
    return connection.execute(statement, [LONGER_THAN_ALL_QUESTIONS_S]).fetchone()
