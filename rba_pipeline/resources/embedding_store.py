"""The Parquet dataset of vectors: what is there, append a part, and an outcome for every text."""

import json
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr

from rba_pipeline.core.embeddings import Outcome, Part, Space, batched
from rba_pipeline.core.errors import RecordMissing
from rba_pipeline.core.windows import Window
from rba_pipeline.resources.record_store import described
from rba_pipeline.resources.store_root import KeptRows, StoreRoot
from rba_pipeline.resources.text_ledger import TextLedger

ROWS_PER_GROUP = 1024
OUTCOMES_PER_GROUP = 8192
# Hashes and vectors repeat nothing and compress to nothing.
_AS_THEY_ARE: dict[str, Any] = {
    "compression": "none", "use_dictionary": False, "write_statistics": False,
}  # fmt: skip
# Key of what a part says of itself.
_SPACE = b"rba_space"
# Another run that merges its parts may remove files between our listing and our reading.
LISTINGS = 5

Block = TypeVar("Block")

OUTCOMES = pa.schema(
    [
        described("text_hash", pa.string(), "64 hex of the text; its vector is kept under it"),
        described(
            "outcome",
            pa.dictionary(pa.int8(), pa.string()),
            "embedded by this run, reused from an earlier one, truncated, or quarantined",
        ),
        described("reason", pa.string(), "Why it is in quarantine"),
        described("attempts", pa.int32(), "How many runs sent it in vain"),
        described("tokens", pa.int32(), "Length, as the model counts"),
        described("is_forgotten", pa.bool_(), "In quarantine, and no longer listed there"),
        described("charged_by", pa.string(), "The last of the runs that sent it in vain"),
    ]
)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What became of the texts of one partition.

    Attributes:
        space: Of their vectors.
        chunking_id: Of the chunks that they are the texts of.
        counts: Texts, by outcome.
        quarantined: The texts without a vector, by hash.
    """

    space: Space
    chunking_id: str
    counts: Mapping[str, int]
    quarantined: Mapping[str, Outcome]


@dataclass(frozen=True, slots=True)
class KeptBlock:
    """Some rows of one part: ``n`` hashes and float32 ``(n, dimensions of the part)``.

    Attributes:
        space: What the part says of itself; ``None``: it says nothing.
    """

    path: str
    space: str | None
    hashes: list[str]
    vectors: NDArray[np.float32]


class EmbeddingStore(dg.ConfigurableResource):
    """Vectors by text hash, per embedding space and calendar year, below the store's root.

    The part files are the checkpoint: a part appears whole or not at all, so that a run that is
    killed at any moment is continued from what the parts hold.
    """

    store: str = Field(description="Root of the record: a local folder or an fsspec URL.")
    corpus: str = Field(description="Name of the publications that this is about.")

    # Names this writer's own parts: only those are merged, also when a lost twin of it still runs.
    _writer: str = PrivateAttr(default_factory=lambda: secrets.token_hex(6))

    def append(self, space: str, year: int, part: Part) -> None:
        """Keep the vectors of ``part``; when this returns they survive any kill."""
        if part.text_hashes:
            with self._root().write(self._new_path(space, year)) as file:
                table = _table(part.text_hashes, part.vectors, part.truncated)
                table = table.replace_schema_metadata({_SPACE: space})
                pq.write_table(table, file, **_AS_THEY_ARE)

    def kept(self, space: str, year: int) -> Iterator[tuple[str, list[str]]]:
        """Yield the hashes that have a vector in ``space``, in blocks; some may come twice.

        Each block has the outcome of its texts for a run that finds them: ``reused``, or
        ``truncated`` where the vector is of the text's beginning.
        """
        blocks = self._blocks(space, year, _flags_of, columns=["text_hash", "is_truncated"])
        for _, (hashes, flags) in blocks:
            cut = {name for name, is_cut in zip(hashes, flags, strict=True) if is_cut}
            yield "reused", [name for name in hashes if name not in cut]
            if cut:
                yield "truncated", [name for name in hashes if name in cut]

    def vectors(
        self, space: str, year: int, wanted: Iterable[str]
    ) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """Return blocks of hashes and their vectors, float32 of shape ``(n, dimensions)``, each
        hash once.

        ``wanted`` is read before this returns, and may have some twice. Hashes without a vector are
        left out; at most some thousand rows are in memory at once.

        Raises:
            RecordFull: The temporary file of the wanted hashes has no room; perhaps only once the
                blocks are read.
        """
        with ExitStack() as unless_read:
            left = unless_read.enter_context(TextLedger())
            left.add((name, 0) for name in wanted)
            unless_read.pop_all()
        return self._vectors(space, year, left)

    def _vectors(
        self, space: str, year: int, left: TextLedger
    ) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        with left, closing(self.taken(space, year, left)) as blocks:
            _, _, lacking = left.totals()
            # A publication of little, or of nothing new, does not read all that is kept.
            while lacking and (block := next(blocks, None)):
                yield block.hashes, block.vectors
                lacking -= len(block.hashes)

    def taken(self, space: str, year: int, left: TextLedger) -> Generator[KeptBlock, None, None]:
        """Yield the vectors of the texts of ``left`` that have no state, and give them one: each
        text once, with the vector that is published.
        """
        blocks = self._blocks(space, year, _vectors_of, columns=["text_hash", "vector"])
        for path, (said, hashes, vectors) in blocks:
            new = left.take(hashes)
            rows = {name: row for row, name in enumerate(hashes) if name in new}
            if rows:
                yield KeptBlock(path, said, list(rows), vectors[list(rows.values())])

    def merge(self, space: str, year: int) -> None:
        """Put the parts that this run wrote into one file. A kill in between leaves texts twice,
        alike; what killed writers left half written goes.
        """
        root = self._root()
        root.remove_abandoned()
        own = [path for path in self._paths(space, year) if f"part-{self._writer}-" in path]
        if len(own) < 2:
            return
        with root.parquet(own[0]) as parquet:
            schema = parquet.schema
        merged = self._new_path(space, year)
        with (
            root.write(merged) as target,
            pq.ParquetWriter(target, schema, **_AS_THEY_ARE) as writer,
        ):
            for group in _grouped(_tables(root, own)):
                writer.write_table(group)
        for path in own:
            root.remove(path)

    def write_outcomes(
        self, window: Window, space: Space, chunking_id: str, rows: Iterable[Outcome]
    ) -> None:
        """Keep what became of every text of ``window``, replacing what earlier runs said."""
        self._write_outcomes(self._outcomes_path(window), (space, chunking_id), rows)
        # A kill in between leaves it, older by a run: see ``earlier``.
        self._root().remove(self._rejected_path(window))

    def write_rejected(
        self, window: Window, space: Space, chunking_id: str, rows: Iterable[Outcome]
    ) -> None:
        """Keep what a run of ``window`` that fails found at fault, until one says what became of
        every text: nothing is published by it, but the next run need not find out again.
        """
        self._write_outcomes(self._rejected_path(window), (space, chunking_id), rows)

    def is_recorded(self, window: Window) -> bool:
        """Return whether a run of ``window`` kept what became of its texts."""
        return self._root().exists(self._outcomes_path(window))

    def outcomes(self, window: Window) -> Outcomes:
        """Return what the last run kept for ``window``.

        Raises:
            RecordMissing: The partition's embeddings were never materialised.
        """
        path = self._outcomes_path(window)
        if not self._root().exists(path):
            raise RecordMissing(f"{self.store}/{path} is not there: materialise 'embeddings' first")
        counts, quarantined = Counter[str](), dict[str, Outcome]()
        # One opening for both: another run may replace the file at any time.
        with self._root().parquet(path) as kept:
            for some, bad in kept.decoded(_counted, OUTCOMES_PER_GROUP):
                counts.update(some)
                quarantined.update((row.text_hash, row) for row in bad)
            return Outcomes(*_about(kept), counts, quarantined)

    def earlier(self, window: Window, space: str) -> dict[str, Outcome]:
        """Return the texts that the last run quarantined in ``space``, and those that runs which
        failed since found at fault, by hash; of two that a kill left, the one of more attempts.
        """
        found = dict[str, Outcome]()
        for path in (self._outcomes_path(window), self._rejected_path(window)):
            # A run that ends well removes the second one.
            with suppress(FileNotFoundError), self._root().parquet(path) as kept:
                if _about(kept)[0].id == space:
                    for row in _outcomes_in(kept, only="quarantined"):
                        known = found.get(row.text_hash, row)
                        found[row.text_hash] = max(known, row, key=lambda each: each.attempts)
        return found

    def not_forgotten(self) -> set[str]:
        """Return the quarantined texts that belong on the list: of runs that ended well."""
        return {
            row.text_hash
            for path in self._root().list(self._outcomes_folder(), ".parquet")
            for row in self._outcome_rows(path, only="quarantined")
            if not row.is_forgotten
        }

    def quarantined_in(self, names: Collection[str]) -> dict[str, list[str]]:
        """Return in which windows, by name, each of the quarantined texts ``names`` occurs."""
        found: dict[str, set[str]] = {}
        for path in self._all_outcomes():
            window = path.rpartition("/")[2].removesuffix(".parquet")
            # A run that ends well removes those of failed ones.
            with suppress(FileNotFoundError):
                for row in self._outcome_rows(path, only="quarantined"):
                    if row.text_hash in names:
                        found.setdefault(row.text_hash, set()).add(window)
        return {name: sorted(windows) for name, windows in found.items()}

    def change_quarantined(
        self, names: Collection[str], change: Callable[[Outcome], Outcome]
    ) -> None:
        """Change the outcomes of the quarantined texts ``names``, wherever they occur."""

        def is_meant(row: Outcome) -> bool:
            return row.outcome == "quarantined" and row.text_hash in names

        for path in self._all_outcomes():
            with suppress(FileNotFoundError), self._root().parquet(path) as kept:
                if any(map(is_meant, _outcomes_in(kept))):
                    rows = (change(row) if is_meant(row) else row for row in _outcomes_in(kept))
                    self._write_outcomes(path, _about(kept), rows)

    def canary(self, space: str) -> NDArray[np.float32] | None:
        """Return the canary's vector, float32 ``(dimensions,)``, as ``space`` was first used."""
        root, path = self._root(), self._canary_path(space)
        if not root.exists(path):
            return None
        with root.parquet(path) as parquet:
            vector: NDArray[np.float32] = parquet.first(
                lambda row: _matrix(row.column("vector"))[0]
            )
        return vector

    def keep_canary(self, space: str, vector: NDArray[np.float32]) -> None:
        """Keep the canary's vector for all later runs."""
        with self._root().write(self._canary_path(space)) as file:
            pq.write_table(_table(["canary"], vector[np.newaxis]), file)

    def _root(self) -> StoreRoot:
        return StoreRoot(self.store)

    def _folder(self, space: str, year: int) -> str:
        return f"embeddings/{self.corpus}/{space}/{year}"

    def _all_outcomes(self) -> list[str]:
        folders = (f"embeddings/{self.corpus}/{name}" for name in ("outcomes", "rejected"))
        return [path for folder in folders for path in self._root().list(folder, ".parquet")]

    def _write_outcomes(self, path: str, about: tuple[Space, str], rows: Iterable[Outcome]) -> None:
        schema = OUTCOMES.with_metadata({"rba": _written(*about)})
        with self._root().write(path) as file, pq.ParquetWriter(file, schema) as writer:
            for group in batched(rows, OUTCOMES_PER_GROUP):
                writer.write_table(pa.Table.from_pylist([asdict(row) for row in group], schema))

    def _outcome_rows(self, path: str, only: str | None = None) -> Iterator[Outcome]:
        with self._root().parquet(path) as kept:
            yield from _outcomes_in(kept, only)

    def _canary_path(self, space: str) -> str:
        return f"embeddings/{self.corpus}/{space}/canary.parquet"

    def _outcomes_folder(self) -> str:
        return f"embeddings/{self.corpus}/outcomes"

    def _outcomes_path(self, window: Window) -> str:
        return f"{self._outcomes_folder()}/{window.name}.parquet"

    def _rejected_path(self, window: Window) -> str:
        return f"embeddings/{self.corpus}/rejected/{window.name}.parquet"

    def _new_path(self, space: str, year: int) -> str:
        name = f"part-{self._writer}-{secrets.token_hex(4)}.parquet"
        return f"{self._folder(space, year)}/{name}"

    def _paths(self, space: str, year: int) -> list[str]:
        return self._root().list(self._folder(space, year), ".parquet")

    def _blocks(
        self,
        space: str,
        year: int,
        decode: Callable[[pa.RecordBatch], Block],
        columns: list[str],
    ) -> Iterator[tuple[str, Block]]:
        """Yield all rows that are kept, in blocks, each with its part; some may come twice."""
        root, read = self._root(), set[str]()
        for _ in range(LISTINGS):
            try:
                for path in self._paths(space, year):
                    if path not in read:
                        with root.parquet(path) as parquet:
                            for block in parquet.decoded(decode, ROWS_PER_GROUP, columns=columns):
                                yield path, block
                        read.add(path)
                return
            except FileNotFoundError:
                continue
        raise RuntimeError(f"parts of {self._folder(space, year)} vanish while they are read")


def _written(space: Space, chunking_id: str) -> str:
    return json.dumps({"space": asdict(space), "chunking_id": chunking_id})


def _about(kept: KeptRows) -> tuple[Space, str]:
    return kept.told(lambda about: (Space(**about["space"]), str(about["chunking_id"])))


def _outcomes_in(kept: KeptRows, only: str | None = None) -> Iterator[Outcome]:
    for outcomes in kept.decoded(partial(_outcomes_of, only=only), OUTCOMES_PER_GROUP):
        yield from outcomes


def _outcomes_of(batch: pa.RecordBatch, only: str | None = None) -> list[Outcome]:
    # Of most partitions next to none are in quarantine: not one object for each row.
    some = batch.filter(pc.field("outcome") == only) if only else batch
    return [Outcome(**row) for row in some.to_pylist()]


def _counted(batch: pa.RecordBatch) -> tuple[dict[str, int], list[Outcome]]:
    """Return how often each outcome occurs, and those in quarantine."""
    counts = batch.column("outcome").value_counts().to_pylist()
    return {each["values"]: each["counts"] for each in counts}, _outcomes_of(batch, "quarantined")


def _table(
    hashes: Sequence[str], vectors: NDArray[np.float32], truncated: Collection[str] = ()
) -> pa.Table:
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    return pa.table(
        {
            "text_hash": pa.array(hashes, pa.string()),
            "is_truncated": pa.array([name in truncated for name in hashes], pa.bool_()),
            "vector": column,
        }
    )


def _hashes_of(batch: pa.RecordBatch) -> list[str]:
    hashes: list[str] = batch.column("text_hash").to_pylist()
    # What is no hash is damage here, and anything else later.
    for name in hashes:
        bytes.fromhex(name)
    return hashes


def _flags_of(batch: pa.RecordBatch) -> tuple[list[str], list[bool]]:
    return _hashes_of(batch), batch.column("is_truncated").to_pylist()


def _vectors_of(batch: pa.RecordBatch) -> tuple[str | None, list[str], NDArray[np.float32]]:
    said = (batch.schema.metadata or {}).get(_SPACE)
    return said and said.decode(), _hashes_of(batch), _matrix(batch.column("vector"))


def _matrix(column: pa.FixedSizeListArray) -> NDArray[np.float32]:
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float32).reshape(len(column), -1)


def _grouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join small tables, so that a file of many parts has few groups of rows."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= ROWS_PER_GROUP:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _tables(root: StoreRoot, paths: Iterable[str]) -> Iterator[pa.Table]:
    for path in paths:
        with root.parquet(path) as parquet:
            yield from parquet.decoded(lambda batch: pa.Table.from_batches([batch]), ROWS_PER_GROUP)
