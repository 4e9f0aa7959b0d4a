"""A window is published once, however often it is begun: one attempt after the other, in turn."""

from contextlib import suppress

import psycopg

from rba_pipeline.core.embeddings import Space
from rba_pipeline.core.errors import DatabaseError
from rba_pipeline.core.promises import ChecksFailed
from rba_pipeline.core.windows import Window
from rba_pipeline.resources import locks, quarantine, space_register
from rba_pipeline.resources.database import Database
from rba_pipeline.resources.publication import Publication, Published
from rba_pipeline.resources.staging import Content


def publish(
    database: Database,
    corpus: str,
    *,
    space: Space,
    window: Window,
    content: Content,
    turn_timeout_s: float,
    waiting: locks.Waiting,
) -> Published:
    """Make ``window`` equal to ``content`` in one transaction; see ``VectorStore.publish``."""
    refused: dict[str, str] = {}
    before = database.run(
        "reading the quarantine",
        lambda connection: quarantine.refused_before(connection, corpus, window),
    )

    def once(connection: psycopg.Connection) -> Published:
        space_register.register(connection, space, turn_timeout_s, waiting)
        with connection.transaction():
            name = f"rba_pipeline publishing {window.start} of {corpus}"
            locks.name_session(connection, name, until_commit=True)
            space_register.lock_corpus(connection, corpus, turn_timeout_s, waiting)
            publication = Publication(
                connection, corpus, space=space, window=window, content=content
            )
            try:
                published = publication.publish(waiting.stopwatch)
            finally:
                refused.update(publication.refused)
            entries = quarantine.refused_now(window, publication.refused, before)
            quarantine.replace(connection, corpus, "chunk", window, entries)
        return published

    try:
        return database.run(f"publishing {window.start}", once)
    except (ChecksFailed, DatabaseError):
        _charge(database, corpus, quarantine.refused_now(window, refused, before))
        raise


def _charge(database: Database, corpus: str, entries: list[quarantine.QuarantineEntry]) -> None:
    """Keep what a publication learnt, although it was rolled back itself."""
    if entries:
        # The error that is on its way says why there may be no database to keep it.
        with suppress(DatabaseError):
            database.run(
                "charging chunks", lambda connection: quarantine.put(connection, corpus, entries)
            )
