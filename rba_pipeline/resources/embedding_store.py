"""The Parquet dataset of vectors: what is there, append a part, and an outcome for every text."""

import json
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, replace

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import PrivateAttr

from rba_pipeline.core.embeddings import Outcome, Part, Space, batched
from rba_pipeline.core.errors import RecordMissing
from rba_pipeline.core.windows import Window
from rba_pipeline.resources.store_root import StoreRoot

ROWS_PER_GROUP = 1024
# Another run that merges its parts may remove files between our listing and our reading.
LISTINGS = 5

OUTCOMES = pa.schema(
    [
        ("text_hash", pa.string()),
        ("outcome", pa.dictionary(pa.int8(), pa.string())),
        ("reason", pa.string()),
        ("attempts", pa.int32()),
        ("tokens", pa.int32()),
        ("is_forgotten", pa.bool_()),
    ]
)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The outcomes of one partition, the space of its vectors and the chunking of its texts."""

    space: Space
    chunking_id: str
    rows: tuple[Outcome, ...]

    @property
    def quarantined(self) -> dict[str, Outcome]:
        """Return the texts without a vector, by hash."""
        return {row.text_hash: row for row in self.rows if row.outcome == "quarantined"}


class EmbeddingStore(dg.ConfigurableResource):
    """Vectors by text hash, per embedding space and calendar year, below the store's root.

    The part files are the checkpoint: a part appears whole or not at all, so that a run that is
    killed at any moment is continued from what the parts hold.
    """

    store: str
    corpus: str

    # Names this writer's own parts: only those are merged, also when a lost twin of it still runs.
    _writer: str = PrivateAttr(default_factory=lambda: secrets.token_hex(6))

    def append(self, space: str, year: int, part: Part) -> None:
        """Keep the vectors of ``part``; when this returns they survive any kill."""
        if part.text_hashes:
            with self._root().write(self._new_path(space, year)) as file:
                pq.write_table(_table(part.text_hashes, part.vectors), file, compression="none")

    def kept(self, space: str, year: int, among: set[str]) -> set[str]:
        """Return which of the hashes ``among`` have a vector in ``space``."""
        found: set[str] = set()
        for hashes, _ in self._read(space, year, set(among), columns=["text_hash"]):
            found.update(hashes)
        return found

    def vectors(
        self, space: str, year: int, wanted: set[str]
    ) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """Yield hashes and their vectors, float32 of shape ``(n, dimensions)``, each hash once.

        Hashes without a vector are left out; at most some thousand rows are in memory at once.
        """
        for hashes, table in self._read(space, year, set(wanted), columns=["text_hash", "vector"]):
            yield hashes, _matrix(table.column("vector"))

    def merge(self, space: str, year: int) -> None:
        """Put the parts that this run wrote into one file. A kill in between leaves texts twice,
        alike.
        """
        root = self._root()
        own = [path for path in self._paths(space, year) if f"part-{self._writer}-" in path]
        if len(own) < 2:
            return
        with root.read(own[0]) as file:
            schema = pq.ParquetFile(file).schema_arrow
        merged = self._new_path(space, year)
        with root.write(merged) as target, pq.ParquetWriter(target, schema) as writer:
            for group in batched(_tables(root, own), 64):
                writer.write_table(pa.concat_tables(group))
        for path in own:
            root.remove(path)

    def write_outcomes(self, window: Window, outcomes: Outcomes) -> None:
        """Keep what became of every text of ``window``, replacing what an earlier run said."""
        self._keep_outcomes(self._outcomes_path(window), outcomes)

    def outcomes(self, window: Window) -> Outcomes:
        """Return what the last run kept for ``window``.

        Raises:
            RecordMissing: The partition's embeddings were never materialised.
        """
        path = self._outcomes_path(window)
        if not self._root().exists(path):
            raise RecordMissing(f"{self.store}/{path} is not there: materialise 'embeddings' first")
        return self._outcomes_at(path)

    def earlier(self, window: Window, space: str) -> dict[str, Outcome]:
        """Return what the last run kept for ``window`` in ``space``, by hash; empty at first."""
        try:
            kept = self.outcomes(window)
        except RecordMissing:
            return {}
        return {row.text_hash: row for row in kept.rows} if kept.space.id == space else {}

    def quarantined_in(self, names: Collection[str]) -> dict[str, list[str]]:
        """Return in which windows, by name, each of the quarantined texts ``names`` occurs."""
        found: dict[str, list[str]] = {}
        for path, kept in self._all_outcomes():
            for name in kept.quarantined.keys() & set(names):
                window = path.rpartition("/")[2].removesuffix(".parquet")
                found.setdefault(name, []).append(window)
        return found

    def change_quarantined(
        self, names: Collection[str], change: Callable[[Outcome], Outcome]
    ) -> None:
        """Change the outcomes of the quarantined texts ``names``, wherever they occur."""
        for path, kept in self._all_outcomes():
            concerned = kept.quarantined.keys() & set(names)
            if concerned:
                rows = (change(row) if row.text_hash in concerned else row for row in kept.rows)
                self._keep_outcomes(path, replace(kept, rows=tuple(rows)))

    def canary(self, space: str) -> NDArray[np.float32] | None:
        """Return the canary's vector, float32 ``(dimensions,)``, as ``space`` was first used."""
        root, path = self._root(), self._canary_path(space)
        if not root.exists(path):
            return None
        with root.read(path) as file:
            vector: NDArray[np.float32] = _matrix(pq.read_table(file).column("vector"))[0]
        return vector

    def keep_canary(self, space: str, vector: NDArray[np.float32]) -> None:
        """Keep the canary's vector for all later runs."""
        with self._root().write(self._canary_path(space)) as file:
            pq.write_table(_table(["canary"], vector[np.newaxis]), file)

    def _root(self) -> StoreRoot:
        return StoreRoot(self.store)

    def _folder(self, space: str, year: int) -> str:
        return f"embeddings/{self.corpus}/{space}/{year}"

    def _all_outcomes(self) -> Iterator[tuple[str, Outcomes]]:
        for path in self._root().list(f"embeddings/{self.corpus}/outcomes", ".parquet"):
            yield path, self._outcomes_at(path)

    def _keep_outcomes(self, path: str, outcomes: Outcomes) -> None:
        about = {"space": asdict(outcomes.space), "chunking_id": outcomes.chunking_id}
        table = pa.Table.from_pylist([asdict(row) for row in outcomes.rows], schema=OUTCOMES)
        with self._root().write(path) as file:
            pq.write_table(table.replace_schema_metadata({"rba": json.dumps(about)}), file)

    def _outcomes_at(self, path: str) -> Outcomes:
        with self._root().read(path) as file:
            table = pq.read_table(file)
        about = json.loads(table.schema.metadata[b"rba"])
        rows = tuple(Outcome(**row) for row in table.to_pylist())
        return Outcomes(Space(**about["space"]), about["chunking_id"], rows)

    def _canary_path(self, space: str) -> str:
        return f"embeddings/{self.corpus}/{space}/canary.parquet"

    def _outcomes_path(self, window: Window) -> str:
        return f"embeddings/{self.corpus}/outcomes/{window.name}.parquet"

    def _new_path(self, space: str, year: int) -> str:
        name = f"part-{self._writer}-{secrets.token_hex(4)}.parquet"
        return f"{self._folder(space, year)}/{name}"

    def _paths(self, space: str, year: int) -> list[str]:
        return self._root().list(self._folder(space, year), ".parquet")

    def _read(
        self, space: str, year: int, left: set[str], columns: list[str]
    ) -> Iterator[tuple[list[str], pa.Table]]:
        """Yield the rows of ``left``, each once; ``left`` shrinks by what was yielded."""
        for _ in range(LISTINGS):
            try:
                for path in self._paths(space, year):
                    if not left:
                        return
                    yield from self._read_part(path, left, columns)
                return
            except FileNotFoundError:
                continue
        raise RuntimeError(f"parts of {self._folder(space, year)} vanish while they are read")

    def _read_part(
        self, path: str, left: set[str], columns: list[str]
    ) -> Iterator[tuple[list[str], pa.Table]]:
        with self._root().read(path) as file:
            for batch in pq.ParquetFile(file).iter_batches(ROWS_PER_GROUP, columns=columns):
                rows = {}
                for row, name in enumerate(batch.column("text_hash").to_pylist()):
                    if name in left:
                        left.remove(name)
                        rows[name] = row
                if rows:
                    yield list(rows), pa.Table.from_batches([batch]).take(list(rows.values()))


def _table(hashes: Iterable[str], vectors: NDArray[np.float32]) -> pa.Table:
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    return pa.table({"text_hash": pa.array(list(hashes), pa.string()), "vector": column})


def _matrix(column: pa.ChunkedArray) -> NDArray[np.float32]:
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float32).reshape(len(column), -1)


def _tables(root: StoreRoot, paths: Iterable[str]) -> Iterator[pa.Table]:
    for path in paths:
        with root.read(path) as file:
            for batch in pq.ParquetFile(file).iter_batches(ROWS_PER_GROUP):
                yield pa.Table.from_batches([batch])
