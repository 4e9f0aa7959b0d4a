"""Whether what is kept and served is as the assets promise it: counts in, verdicts out."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rba_pipeline.core.embeddings import NORM_TOLERANCE, Space
from rba_pipeline.core.promises import (
    AS_CATALOGUED,
    CORPUS_ADDS_UP,
    DIMENSION,
    DOCUMENTS_PUBLISHED,
    FINITE,
    ONE_VECTOR_PER_CHUNK,
    ONE_VECTOR_PER_TEXT,
    SERVED_SPACE,
    SPACE,
    UNIQUE_IDS,
    UNIT_NORM,
    UNIT_VECTORS,
    Check,
    Verdict,
)

# Files and partitions that a finding names; the rest is counted.
_MOST_NAMED = 5


def as_catalogued(path: str, kept: Iterable[str], catalogued: Iterable[str]) -> Verdict:
    """Compare the ids of the documents that are kept in ``path`` with those of the catalogue."""
    have, want = Counter(kept), Counter(catalogued)
    lacking, extra = (want - have).total(), (have - want).total()
    found = f"{path} lacks {lacking} documents, and holds {extra} that are not the partition's"
    return AS_CATALOGUED.verdict(
        found if have != want else "", documents=have.total(), lacking=lacking, extra=extra
    )


def unique_chunk_ids(path: str, *, cut: int, kept: int, distinct: int) -> Verdict:
    """Judge a file of chunks: how many were cut, how many it holds, and how many ids these have."""
    found = f"{cut} chunks were cut, {path} holds {kept}, with {distinct} ids"
    is_whole = cut == kept == distinct
    return UNIQUE_IDS.verdict("" if is_whole else found, chunks=kept, ids=distinct)


@dataclass(slots=True)
class KeptVectors:
    """The vectors of a partition's texts, as they are read back; faults by file.

    Attributes:
        texts: Distinct ones in the partition.
        vectors: Texts that have one.
        missing: Texts without a vector and without a reason.
        outcomes: Texts of which it is told what became of them.
    """

    space: Space
    texts: int = 0
    vectors: int = 0
    missing: int = 0
    outcomes: int = 0
    wrong_dimension: Counter[str] = field(default_factory=Counter)
    not_finite: Counter[str] = field(default_factory=Counter)
    not_unit: Counter[str] = field(default_factory=Counter)
    elsewhere: Counter[str] = field(default_factory=Counter)

    def add(self, path: str, space: str | None, vectors: NDArray[np.float32]) -> None:
        """Look at some vectors, float32 ``(n, any)``, of the file ``path``.

        Args:
            space: What the file says that they were made in; ``None``: it does not say.
        """
        count, dimensions = vectors.shape
        finite = np.isfinite(vectors).all(axis=1)
        norms = np.linalg.norm(vectors[finite].astype(np.float64), axis=1)
        self.vectors += count
        faults = (
            (self.wrong_dimension, count if dimensions != self.space.dimensions else 0),
            (self.not_finite, count - int(finite.sum())),
            (self.not_unit, int((np.abs(norms - 1.0) > NORM_TOLERANCE).sum())),
            (self.elsewhere, count if space not in (None, self.space.id) else 0),
        )
        for counter, faulty in faults:
            if faulty:
                counter[path] += faulty

    def verdicts(self) -> list[Verdict]:
        """Return what came of the checks, but for the sentinel's."""
        # More of them: the chunks were made again meanwhile, and some texts are gone.
        told = self.outcomes >= self.texts and not self.missing
        found = (
            f"of {self.texts} texts, {self.missing} have neither a vector nor a reason, and "
            f"{self.outcomes} have an outcome"
        )
        dimensions = self.space.dimensions
        return [
            ONE_VECTOR_PER_TEXT.verdict(
                "" if told else found, texts=self.texts, vectors=self.vectors, missing=self.missing
            ),
            _in_files(DIMENSION, self.wrong_dimension, f"do not have {dimensions} dimensions"),
            _in_files(FINITE, self.not_finite, "hold NaN or infinity"),
            _in_files(UNIT_NORM, self.not_unit, "do not have length 1"),
            _in_files(SPACE, self.elsewhere, f"were not made in space {self.space.id}"),
        ]


def _in_files(check: Check, faults: Counter[str], what: str) -> Verdict:
    found = f"{faults.total()} vectors {what}, in {_named(faults)}" if faults else ""
    return check.verdict(found, faulty=faults.total())


def _named(counts: Mapping[str, int]) -> str:
    """Return the first few names, each with its count, and how many more there are."""
    names = sorted(counts)
    shown = ", ".join(f"{name} ({counts[name]})" for name in names[:_MOST_NAMED])
    more = len(names) - _MOST_NAMED
    return f"{shown} and {more} more" if more > 0 else shown


@dataclass(frozen=True, slots=True)
class ServedRows:
    """What search would read of a partition if its publication ended now.

    Attributes:
        chunks: In the record; ``withheld`` of them are in quarantine.
        rows: Of those chunks, in the database.
        foreign: Rows of the partition that are no chunk of the record, or are of another text or
            document.
        faulty: Rows with another dimension or length.
        documents, recorded: Of the partition, in the database and in the record.
        known: The space as the database describes it.
    """

    space: Space
    chunks: int
    withheld: int
    rows: int
    foreign: int
    faulty: int
    documents: int
    recorded: int
    known: Space | None

    def verdicts(self) -> list[Verdict]:
        """Return what came of the checks."""
        due = self.chunks - self.withheld
        said, known = _described(self.space), _described(self.known)
        return [
            ONE_VECTOR_PER_CHUNK.verdict(
                f"{due} rows are due, {self.rows} of them are there, and {self.foreign} that are "
                "not due; nothing was published" if self.rows != due or self.foreign else "",
                chunks=self.chunks, withheld=self.withheld, rows=self.rows,
            ),
            UNIT_VECTORS.verdict(
                f"{self.faulty} rows do not have {self.space.dimensions} dimensions and length 1; "
                f"nothing was published. They are found by WHERE space = '{self.space.id}' AND "
                f"NOT (vector_dims(embedding) = {self.space.dimensions} AND "
                f"abs(vector_norm(embedding) - 1) <= {NORM_TOLERANCE})" if self.faulty else "",
                faulty=self.faulty,
            ),
            SERVED_SPACE.verdict(
                f"space {self.space.id} is {said} in the record, and {known} in the database; "
                "nothing was published" if said != known else ""
            ),
            DOCUMENTS_PUBLISHED.verdict(
                "" if self.documents == self.recorded else f"{self.documents} documents in the "
                f"database, {self.recorded} in the record; nothing was published",
                documents=self.documents,
            ),
        ]  # fmt: skip


def _described(space: Space | None) -> str:
    return f"{space.model!r} with {space.dimensions} dimensions" if space else "unknown"


def corpus_adds_up(
    *,
    files: int,
    quarantined: int,
    filed: Mapping[str, tuple[str, str]],
    served: Mapping[str, tuple[str, str | None]],
    ran: Collection[str],
) -> Verdict:
    """Judge whether every file of the catalogue is searchable, in quarantine, or in a partition
    that has never been run.

    Args:
        filed, served: Partition and content hash of each document by its id, in the catalogue and
            in the space that was published into; ``None``: it is not published there.
        ran: Partitions that were published at least once.
    """
    waiting = Counter(filed[name][0] for name in filed if served.get(name) != filed[name])
    published = len(filed) - waiting.total()
    waiting.update(served[name][0] for name in served.keys() - filed.keys())
    found = (
        f"{files} files are {published} documents that search has as they are filed now, "
        f"{quarantined} in quarantine, and {files - published - quarantined} that wait; the "
        f"partitions with documents to bring in or to take out are {_named(waiting)}"
    )
    return CORPUS_ADDS_UP.verdict(
        found if waiting.keys() & set(ran) else "",
        is_warning=True,
        files=files, published=published, quarantined=quarantined, waiting=waiting.total(),
        partitions_never_run=len(waiting.keys() - set(ran)),
    )  # fmt: skip
