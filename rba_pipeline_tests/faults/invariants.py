"""What holds after every fault: each chunk has its own vector, or a reason why it has none.

The seven invariants of the fault suite, by number. I1 to I5 are of what a run leaves behind, I6 is
of what it says when it fails, I7 of how it waits.
"""

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date

import numpy as np
import psycopg
from numpy.typing import NDArray

from rba_pipeline.core import errors
from rba_pipeline.core.windows import Window
from rba_pipeline.materialise import PartitionResult
from rba_pipeline.neighbours import Neighbours
from rba_pipeline.partitions import today
from rba_pipeline_tests.installation import Installation
from rba_pipeline_tests.oracle_service import KEY, OracleService, oracle_vector
from rba_pipeline_tests.resources.sample_records import sha256

# Occurs in every document of these tests, and in no message, log or name.
PHRASE = "figure"
_GOING_S = 10
# A failure as Dagster keeps it: of which step, its kind, what happened and what to do, and where:
# in a failure of the service at texts, at which ones, and how often they had been sent.
_FAILURE = re.compile(
    r"(?P<step>\w+): (?P<kind>\w+): .{20,} \(partition (?P<key>[^\s;]+)"
    r"(?P<batch>; failed last: text [0-9a-f]{64}( and [1-9]\d* more)?, at try [1-9]\d*)?\)",
    re.DOTALL,
)
# What to do at a failure of the service, for the kinds whose messages say it themselves.
_SAID = {
    errors.NotAllowed: "check EMBEDDING_API_KEY",
    errors.ServiceOverloaded: "run the partition again",
    errors.ServiceUnavailable: "run the partition again",
    errors.VectorsDrifted: "Run `python -m embedding_service check` there",
    errors.WrongSpace: "restart it with the first one, or run the partition again",
}
_OUTAGE = re.compile(r"Nothing was answered for \d+ s, in [1-9]\d* tries")
_OTHERS = (
    "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
    "AND backend_type = 'client backend'"
)


def check_invariants(
    installation: Installation,
    oracle: OracleService,
    results: Sequence[PartitionResult],
    *,
    resent: int,
    quarantined: int = 0,
    refused: int = 0,
) -> None:
    """Assert what users must be able to trust, once all runs have ended.

    Args:
        results: The last run of every partition.
        resent: How many texts may have been sent twice, over all runs.
        quarantined: How many texts have a reason why they have no vector: no more, no fewer.
        refused: How many chunks the database does not take, likewise.
    """
    rows = check_what_is_kept(installation, results, quarantined=quarantined, refused=refused)
    _little_was_sent_twice(oracle, rows, resent)
    check_nothing_is_left_over(installation, oracle)
    for failed in filter(lambda result: result.failure, results):
        check_failure([failed])
    check_nothing_is_held(installation)


def check_what_is_kept(
    installation: Installation,
    results: Sequence[PartitionResult],
    *,
    quarantined: int = 0,
    refused: int = 0,
    vector: Callable[[str], NDArray[np.float32]] = oracle_vector,
) -> dict[str, tuple[str, str]]:
    """I1 to I3, as ``check_invariants``; return hash and text of each chunk that has a vector.

    Args:
        vector: What the service gives for a text.
    """
    rows = _every_chunk_has_one_vector(installation, {"text": quarantined, "chunk": refused})
    _every_vector_is_its_own_texts(installation, rows, vector)
    _every_text_has_an_outcome(installation)
    for result in results:
        _metadata_says_the_same(installation, result)
    return rows


def check_failure(results: Sequence[PartitionResult], *, of_texts: bool = True) -> str:
    """I6: assert that the one run failed and says how it should; return what it says.

    Args:
        of_texts: Whether the service, if it is why, failed at texts; else at what is asked before.
    """
    [result] = results
    assert result.failure
    told = _FAILURE.fullmatch(result.failure)
    assert told, result.failure
    kind = _kinds(errors.RbaError)[told["kind"]]
    is_of_service = issubclass(kind, errors.EmbeddingError)
    assert told["key"] == result.key
    assert bool(told["batch"]) == (is_of_service and of_texts), result.failure
    if is_of_service:
        assert (kind.hint or _SAID[kind]) in result.failure
    if kind in (errors.ServiceOverloaded, errors.ServiceUnavailable):
        assert _OUTAGE.search(result.failure), result.failure
    check_message(result.failure)
    return result.failure


def _kinds(of: type[errors.RbaError]) -> dict[str, type[errors.RbaError]]:
    found = {of.__name__: of}
    for each in of.__subclasses__():
        found |= _kinds(each)
    return found


def check_message(message: str) -> None:
    """I6: assert that a message gives away neither secret nor text."""
    assert KEY not in message
    assert PHRASE not in message
    assert "test@" not in message


def check_nothing_is_held(installation: Installation) -> None:
    """I7: assert that nobody has an open transaction or a lock, as while a request is waited for.

    Seen at one moment: at which no run reads or writes its state.
    """
    transactions = f"SELECT query {_OTHERS} AND xact_start IS NOT NULL"
    locks = (
        f"SELECT l.mode, a.query FROM pg_locks l JOIN (SELECT pid, query {_OTHERS}) a USING (pid)"
    )
    with psycopg.connect(installation.environment["RBA_DATABASE_URL"], autocommit=True) as link:
        assert link.execute(transactions).fetchall() == []
        assert link.execute(locks).fetchall() == []


def check_nothing_is_left_over(installation: Installation, *services: OracleService) -> None:
    """I5: no worker thread, no connection to a service, and none to the database but ours."""
    assert _threads("embed") == []
    # A server takes a moment to see that a client has gone, and a thread that was not waited for
    # does to end.
    deadline = time.monotonic() + _GOING_S
    with psycopg.connect(installation.environment["RBA_DATABASE_URL"], autocommit=True) as link:

        def left() -> tuple[list[str], list[object], int]:
            others = link.execute(f"SELECT application_name, query {_OTHERS}").fetchall()
            return _threads("ask"), others, sum(service.connections for service in services)

        while left() != ([], [], 0) and time.monotonic() < deadline:
            link.execute("SELECT pg_sleep(0.05)")
        assert left() == ([], [], 0)


def _threads(prefix: str) -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith(f"{prefix}_")]


def _every_chunk_has_one_vector(
    installation: Installation, missing: Mapping[str, int]
) -> dict[str, tuple[str, str]]:
    """I1: the record and the database hold the same chunks, less what is in quarantine."""
    rows = {name: (row[5], row[6]) for name, row in installation.rows().items()}
    with installation.neighbours() as found:
        listed = [each for each in found.vector_store.quarantine() if each.kind in missing]
        assert Counter(each.kind for each in listed) == Counter(missing)
        withheld = {each.name for each in listed}
        recorded: dict[str, str] = {}
        for window in _windows(installation):
            for name, text_hash in _chunks(found, window):
                assert name not in recorded
                recorded[name] = text_hash
    expected = {name: text for name, text in recorded.items() if not {name, text} & withheld}
    assert {name: text_hash for name, (text_hash, _) in rows.items()} == expected
    return rows


def _every_vector_is_its_own_texts(
    installation: Installation,
    rows: dict[str, tuple[str, str]],
    vector: Callable[[str], NDArray[np.float32]],
) -> None:
    """I2: computed again from the text, and the text from its hash."""
    vectors = installation.vectors()
    assert vectors.keys() == rows.keys()
    for name, (text_hash, text) in rows.items():
        assert sha256(text) == text_hash
        np.testing.assert_allclose(vectors[name], vector(text), atol=1e-6)


def _every_text_has_an_outcome(installation: Installation) -> None:
    """I3: documents and texts in are documents and texts accounted for."""
    with installation.neighbours() as found:
        catalogue = found.source.catalogue(today())
        listed = {each.name for each in found.vector_store.quarantine() if each.kind == "text"}
        withheld = {
            name
            for window in _windows(installation)
            for name in found.embedding_store.outcomes(window).quarantined
        }
    assert listed == withheld
    assert len(catalogue.entries) == len(_filing_days(installation)) + len(catalogue.quarantine())


def _metadata_says_the_same(installation: Installation, result: PartitionResult) -> None:
    """I3: of one partition, as the database has its documents, and the record its chunks."""
    window, said = installation.window(result.key), result.metadata["embeddings"]
    filed = [day for day in _filing_days(installation) if window.start <= day < window.end]
    with installation.neighbours() as found:
        texts = {text_hash for _, text_hash in _chunks(found, window)}
        listed = [
            each for each in found.vector_store.quarantine() if each.window_start == window.start
        ]
    assert result.metadata["documents"]["documents"] == len(filed)
    assert said["texts"] == len(texts)
    assert said["quarantined"] == sum(each.kind == "text" for each in listed)
    # A run that failed earlier says nothing of it.
    if result.failure is None:
        refused = result.metadata["vectors"]["refused_by_database"]
        assert refused == sum(each.kind == "chunk" for each in listed)
    parts = ("embedded", "reused", "truncated", "quarantined")
    assert said["texts"] == sum(said[name] for name in parts)


def _little_was_sent_twice(
    oracle: OracleService, rows: dict[str, tuple[str, str]], resent: int
) -> None:
    """I4: what was sent is what was needed, and what a fault cost."""
    sent = Counter(oracle.texts_sent)
    assert {text for _, text in rows.values()} <= sent.keys()
    assert sum(count - 1 for count in sent.values()) <= resent


def _chunks(found: Neighbours, window: Window) -> Iterator[tuple[str, str]]:
    """Yield id and hash of the text of each chunk on record."""
    chunking = found.embedding_store.outcomes(window).chunking_id
    for batch in found.records.chunk_batches(window, chunking):
        for row in batch.select(["chunk_id", "text_hash"]).to_pylist():
            yield row["chunk_id"], row["text_hash"]


def _filing_days(installation: Installation) -> list[date]:
    """Return the day of each document in the database."""
    with psycopg.connect(installation.environment["RBA_DATABASE_URL"]) as link:
        return [day for (day,) in link.execute("SELECT published_on FROM documents").fetchall()]


def _windows(installation: Installation) -> list[Window]:
    with installation.neighbours() as found:
        days = found.vector_store.filing_dates()
    return [installation.window(f"{year}-01-01") for year in sorted({day.year for day in days})]
