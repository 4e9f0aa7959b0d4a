"""Dagster's instance for commands: one message where its storage is away, and no log lines."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from dagster._core.instance.ref import InstanceRef
from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy.exc import DBAPIError

from rba_pipeline.core.errors import DatabaseError, DatabaseUnavailable
from rba_pipeline.resources.database_health import has_table

_WHAT_TO_DO = "start that server, or correct DAGSTER_POSTGRES_URL"


@contextmanager
def dagster_instance() -> Iterator[dg.DagsterInstance]:
    """Have Dagster's instance for the block.

    Raises:
        DatabaseUnavailable: Its storage does not answer.
    """
    with _off_the_terminal():
        _require_storage()
        try:
            with dg.DagsterInstance.get() as instance:
                yield instance
        except (DagsterPostgresException, DBAPIError) as error:
            reason = str(getattr(error.__cause__ or error, "orig", None) or error).splitlines()[0]
            raise DatabaseUnavailable(
                f"Dagster's storage does not answer any more ({reason}): {_WHAT_TO_DO}"
            ) from None


def is_in_postgres(home: str) -> bool:
    """Return whether the dagster.yaml of this home keeps runs in Postgres."""
    storage = InstanceRef.from_dir(home).run_storage_data
    return storage is not None and "Postgres" in storage.class_name


def _require_storage() -> None:
    """Look once: Dagster itself tries for half a minute, and ends with a trace."""
    home, url = os.environ.get("DAGSTER_HOME", ""), os.environ.get("DAGSTER_POSTGRES_URL")
    if not url or not Path(home, "dagster.yaml").exists() or not is_in_postgres(home):
        return
    try:
        has_table(url, "runs")
    except DatabaseError as error:
        raise DatabaseUnavailable(
            f"Dagster's storage cannot be reached, {error}: {_WHAT_TO_DO}"
        ) from None


@contextmanager
def _off_the_terminal() -> Iterator[None]:
    # Dagster warns of every connection that it tries again. Without any handler, the first such
    # warning would make one, which writes into the lines of the progress.
    nowhere = logging.NullHandler()
    logging.root.addHandler(nowhere)
    try:
        yield
    finally:
        logging.root.removeHandler(nowhere)
