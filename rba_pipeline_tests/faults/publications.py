"""Publications that something happens to, and what must be stored in the end."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import psycopg
import pyarrow as pa
from numpy.typing import NDArray
from pgvector.psycopg import register_vector

from rba_pipeline.core.documents import Document
from rba_pipeline.resources.staging import Content
from rba_pipeline_tests.oracle_service import oracle_vector
from rba_pipeline_tests.resources.publishing import Texts, reading_first, vectors_from
from rba_pipeline_tests.resources.sample_records import chunk_batches, sha256

Blocks = Iterator[tuple[list[str], NDArray[np.float32]]]


@dataclass
class Striking:
    """The content of a window, whose sources do something once, when they come to a point.

    Attributes:
        point: ``documents``, ``chunks`` or ``vectors``, ``before`` or ``amid`` its rows.
        attempts: How often a publication began to read.
    """

    texts: Texts
    point: str
    strike: Callable[[], None]
    attempts: int = 0
    _left: list[Callable[[], None]] = field(init=False)

    def __post_init__(self) -> None:
        self._left = [self.strike]

    def content(self) -> Content:
        """Return the content for a publication."""
        return Content(self._documents, self._chunks, reading_first(self._vectors))

    def _documents(self) -> Iterator[Document]:
        self.attempts += 1
        yield from self._passed("documents", list(self.texts))

    def _chunks(self) -> Iterator[pa.RecordBatch]:
        yield from self._passed("chunks", list(chunk_batches(self.texts)))

    def _vectors(self, wanted: set[str]) -> Blocks:
        yield from self._passed("vectors", list(vectors_from(self.texts)(wanted)))

    def _passed(self, name: str, items: Sequence) -> Iterator:
        self._at(f"before {name}")
        for item in items:
            yield item
            self._at(f"amid {name}")

    def _at(self, point: str) -> None:
        if point == self.point and self._left:
            self._left.pop()()


class Tries:
    """A trigger that counts how often it is called, and does something the first times.

    What a transaction takes from a sequence is not rolled back: the count outlives every failure.
    """

    def __init__(self, url: str, action: str, trigger: str, *, first: int) -> None:
        """Make the trigger.

        Args:
            action: A statement of PL/pgSQL.
            trigger: ``BEFORE INSERT ON table`` for each statement, or ``AT COMMIT ON table``.
            first: How often the action is done.
        """
        self._url = url
        event, _, table = trigger.rpartition(" ")
        made = (
            f"CONSTRAINT TRIGGER tried AFTER INSERT ON {table} DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW"
            if event.startswith("AT COMMIT")
            else f"TRIGGER tried {trigger} FOR EACH STATEMENT"
        )
        value(url, "CREATE SEQUENCE tries")
        value(
            url,
            "CREATE FUNCTION tried() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF nextval('tries') <= {first} THEN {action}; END IF; RETURN NEW; END $$",
        )
        value(url, f"CREATE {made} EXECUTE FUNCTION tried()")

    def count(self) -> int:
        """Return how often it was called."""
        found = value(self._url, "SELECT last_value - (NOT is_called)::int FROM tries")
        assert isinstance(found, int)
        return found


def raising(state: str) -> str:
    """Return the statement that fails with ``state``."""
    return f"RAISE EXCEPTION 'on purpose' USING ERRCODE = '{state}'"


def refuse_texts(url: str, texts: Sequence[str], state: str = "P0001") -> None:
    """Let the database refuse the chunks with these texts, and quote them in its details."""
    value(
        url,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"RAISE EXCEPTION 'not this row' USING ERRCODE = '{state}', DETAIL = NEW.text; END $$",
    )
    wanted = " OR ".join(f"NEW.text LIKE '%{text}%'" for text in texts)
    value(
        url,
        f"CREATE TRIGGER refused BEFORE INSERT ON vectors FOR EACH ROW WHEN ({wanted}) "
        "EXECUTE FUNCTION refuse()",
    )


def content_of(texts: Texts) -> Content:
    """Return the content of a window in which there are these texts."""
    return Content(
        lambda: list(texts), lambda: chunk_batches(texts), reading_first(vectors_from(texts))
    )


def value(url: str, statement: str, *parameters: object) -> object:
    """Run one statement, and return the first value that it gives."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(statement, parameters or None)
        row = found.fetchone() if found.description else None
    return row[0] if row else None


def assert_published_once(url: str, texts: Texts) -> None:
    """Compare what is stored with the texts: each of them once, with the vector of its own text."""
    with psycopg.connect(url) as connection:
        register_vector(connection)
        stored = connection.execute("SELECT text, text_hash, embedding FROM vectors").fetchall()
    expected = sorted(text for its_texts in texts.values() for text in its_texts)
    assert sorted(text for text, _, _ in stored) == expected
    for text, text_hash, vector in stored:
        assert text_hash == sha256(text)
        np.testing.assert_allclose(vector.to_numpy(), oracle_vector(text), atol=1e-6)


def backend_of(url: str) -> int:
    """Return the process that serves the publication that is under way."""
    found = value(
        url,
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name LIKE 'rba_pipeline publishing%'",
    )
    assert isinstance(found, int)
    return found
