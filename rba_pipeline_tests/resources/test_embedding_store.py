"""The dataset of vectors: a checkpoint that no kill, merge or second run can spoil."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from rba_pipeline.core.embeddings import Outcome, Part
from rba_pipeline.core.errors import RecordDamaged, RecordFull, RecordMissing
from rba_pipeline.core.windows import Window
from rba_pipeline.resources.embedding_store import EmbeddingStore, Outcomes
from rba_pipeline.resources.store_root import KeptRows, StoreRoot
from rba_pipeline_tests.resources.sample_records import CORPUS, SPACE, YEAR, sha256, vectors_of
from rba_pipeline_tests.resources.test_store_root import limited_file_size

SPACE_ID, IN = SPACE.id, 2013


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "embeddings" / CORPUS / SPACE_ID / str(IN)


def writer(tmp_path: Path) -> EmbeddingStore:
    """Return a store as one run has it; another run is another writer."""
    return EmbeddingStore(store=str(tmp_path), corpus=CORPUS)


def keep(store: EmbeddingStore, *texts: str) -> None:
    store.append(SPACE_ID, IN, Part(tuple(map(sha256, texts)), vectors_of(texts)))


def found(store: EmbeddingStore, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the vectors by hash, each asked for twice; a hash that comes twice is an error."""
    rows: dict[str, np.ndarray] = {}
    for hashes, vectors in store.vectors(SPACE_ID, IN, map(sha256, [*texts, *texts])):
        assert vectors.dtype == np.float32
        assert len(hashes) == len(vectors)
        assert rows.keys().isdisjoint(hashes)
        rows.update(zip(hashes, vectors, strict=True))
    return rows


def assert_all_there(store: EmbeddingStore, texts: Sequence[str]) -> None:
    rows = found(store, texts)
    assert rows.keys() == set(map(sha256, texts))
    for text, vector in zip(texts, vectors_of(texts), strict=True):
        np.testing.assert_array_equal(rows[sha256(text)], vector)


def names(count: int, prefix: str = "text") -> list[str]:
    return [f"{prefix} {number}" for number in range(count)]


def test_a_vector_comes_back_bit_for_bit(tmp_path: Path) -> None:
    store = writer(tmp_path)

    keep(store, "a", "b")
    keep(store, "c")

    assert_all_there(writer(tmp_path), ["a", "b", "c"])


def test_kept_are_those_with_a_vector_in_this_space_and_year(tmp_path: Path) -> None:
    store = writer(tmp_path)
    keep(store, "a", "b")

    assert list(store.kept(SPACE_ID, IN)) == [("reused", [sha256("a"), sha256("b")])]
    assert list(store.kept(SPACE_ID, 2012)) == list(store.kept("b" * 32, IN)) == []


def test_a_text_that_was_cut_is_still_known_as_cut_after_its_parts_were_merged(
    tmp_path: Path,
) -> None:
    store, name = writer(tmp_path), sha256("b")
    keep(store, "a")
    store.append(SPACE_ID, IN, Part((name,), vectors_of(["b"]), frozenset({name})))

    store.merge(SPACE_ID, IN)

    assert dict(writer(tmp_path).kept(SPACE_ID, IN)) == {
        "reused": [sha256("a")],
        "truncated": [name],
    }


def test_only_wanted_vectors_are_yielded_and_absent_ones_left_out(tmp_path: Path) -> None:
    store = writer(tmp_path)
    keep(store, "a", "b", "c")

    assert found(store, ["b", "x"]).keys() == {sha256("b")}


def test_once_all_that_is_wanted_was_found_no_further_part_is_read(
    tmp_path: Path, folder: Path
) -> None:
    store = writer(tmp_path)
    keep(store, "a")
    first = next(folder.iterdir())
    (folder / "part-zz.parquet").write_bytes(b"damaged")

    assert first.name < "part-zz.parquet"
    assert found(store, []) == {}
    assert found(store, ["a"]).keys() == {sha256("a")}
    with pytest.raises(RecordDamaged, match="part-zz"):
        found(store, ["a", "x"])


def test_wanted_hashes_that_find_no_room_are_told_as_any_full_disk(tmp_path: Path) -> None:
    with pytest.raises(RecordFull, match="SQLITE_TMPDIR"), limited_file_size(100_000):
        writer(tmp_path).vectors(SPACE_ID, IN, map(sha256, names(300_000)))


def test_an_empty_part_leaves_no_file(tmp_path: Path, folder: Path) -> None:
    keep(writer(tmp_path))

    assert not folder.exists()


def test_large_parts_stream_in_bounded_blocks(tmp_path: Path) -> None:
    store, texts = writer(tmp_path), names(3000)
    keep(store, *texts)
    keep(store, "one more")

    sizes = [len(hashes) for hashes, _ in store.vectors(SPACE_ID, IN, set(map(sha256, texts)))]

    assert sum(sizes) == 3000
    assert max(sizes) <= 1024


def test_merging_keeps_every_vector_in_one_file(tmp_path: Path, folder: Path) -> None:
    store, texts = writer(tmp_path), names(150)
    for text in texts:
        keep(store, text)

    store.merge(SPACE_ID, IN)

    assert len(list(folder.iterdir())) == 1
    assert_all_there(store, texts)


@pytest.mark.parametrize("parts", [0, 1])
def test_merging_fewer_than_two_parts_changes_nothing(
    tmp_path: Path, folder: Path, parts: int
) -> None:
    store = writer(tmp_path)
    for text in names(parts):
        keep(store, text)
    before = sorted(folder.glob("*"))

    store.merge(SPACE_ID, IN)

    assert sorted(folder.glob("*")) == before


def test_merging_never_touches_the_parts_of_another_run(tmp_path: Path, folder: Path) -> None:
    other, own = writer(tmp_path), writer(tmp_path)
    keep(other, "a")
    keep(other, "b")
    of_other = {path.name: path.read_bytes() for path in folder.iterdir()}
    keep(own, "c")
    keep(own, "d")

    own.merge(SPACE_ID, IN)

    left = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(left) == 3
    assert of_other.items() <= left.items()
    assert_all_there(own, ["a", "b", "c", "d"])


def test_merging_removes_what_a_killed_run_had_not_finished(tmp_path: Path, folder: Path) -> None:
    store = writer(tmp_path)
    keep(store, "a")
    begun = folder / "part-of-another-run.parquet.0123abcd.tmp"
    begun.write_bytes(b"PAR1")
    os.utime(begun, (0, 0))

    store.merge(SPACE_ID, IN)

    assert not begun.exists()
    assert_all_there(store, ["a"])


def test_a_kill_between_the_merged_file_and_the_removals_leaves_texts_twice_alike(
    tmp_path: Path, folder: Path
) -> None:
    store, texts = writer(tmp_path), names(5)
    for text in texts:
        keep(store, text)
    small = {path: path.read_bytes() for path in folder.iterdir()}
    store.merge(SPACE_ID, IN)
    for path, content in small.items():
        path.write_bytes(content)

    assert len(list(folder.iterdir())) == 6
    assert_all_there(store, texts)
    store.merge(SPACE_ID, IN)
    assert len(list(folder.iterdir())) == 1
    assert_all_there(store, texts)


def test_a_part_that_vanishes_while_another_run_merges_is_read_from_the_merged_one(
    tmp_path: Path, folder: Path
) -> None:
    other, texts = writer(tmp_path), names(6)
    for text in texts:
        keep(other, text)
    reading = writer(tmp_path).vectors(SPACE_ID, IN, set(map(sha256, texts)))
    first, _ = next(reading)

    other.merge(SPACE_ID, IN)

    rest = [name for hashes, _ in reading for name in hashes]
    assert len(first) == 1
    assert sorted(first + rest) == sorted(map(sha256, texts))


def test_parts_that_vanish_again_and_again_are_an_error_not_a_loss(
    tmp_path: Path, folder: Path
) -> None:
    store, texts = writer(tmp_path), names(40)
    hashes = set(map(sha256, texts))
    keep(store, *texts[:2])
    keep(store, *texts[2:4])
    reading = store.vectors(SPACE_ID, IN, hashes)

    def read_while_everything_is_renamed() -> None:
        for number, _ in enumerate(reading, start=2):
            shutil.rmtree(folder)
            for text in texts[2 * number : 2 * number + 4]:
                keep(store, text)

    with pytest.raises(RuntimeError, match="vanish"):
        read_while_everything_is_renamed()


def test_a_file_left_aside_by_a_kill_is_not_read(tmp_path: Path, folder: Path) -> None:
    store = writer(tmp_path)
    keep(store, "a")
    (folder / "part-0-0.parquet.abcd.tmp").write_bytes(b"PAR1 half")

    assert_all_there(store, ["a"])


CUT_BY = "c" * 16
EMBEDDED = Outcome(sha256("a"), "embedded", None, 0, 3)
TRUNCATED = Outcome(sha256("b"), "truncated", None, 0, 4)
BAD = Outcome(sha256("c"), "quarantined", "text_invalid", 2, 5)
OUTCOMES = Outcomes(
    SPACE, CUT_BY, {"embedded": 1, "truncated": 1, "quarantined": 1}, {BAD.text_hash: BAD}
)


def write(store: EmbeddingStore, *rows: Outcome, window: Window = YEAR) -> None:
    store.write_outcomes(window, SPACE, CUT_BY, rows)


def test_outcomes_come_back_counted_with_their_space_and_chunking(tmp_path: Path) -> None:
    write(writer(tmp_path), EMBEDDED, TRUNCATED, BAD)

    assert writer(tmp_path).outcomes(YEAR) == OUTCOMES


def test_outcomes_replace_those_of_an_earlier_run(tmp_path: Path) -> None:
    store = writer(tmp_path)
    write(store, EMBEDDED, BAD)

    write(store, EMBEDDED)

    assert store.outcomes(YEAR) == Outcomes(SPACE, CUT_BY, {"embedded": 1}, {})


def test_outcomes_that_another_run_replaces_while_they_are_read_are_of_one_run(
    tmp_path: Path,
) -> None:
    other, newer = writer(tmp_path), replace(SPACE, id="b" * 32)

    class Overtaken(StoreRoot):
        """Another run replaces every file as soon as it is open."""

        @contextmanager
        def parquet(self, path: str) -> Iterator[KeptRows]:
            with super().parquet(path) as kept:
                other.write_outcomes(YEAR, newer, CUT_BY, [EMBEDDED])
                yield kept

    class Reading(EmbeddingStore):
        def _root(self) -> StoreRoot:
            return Overtaken(self.store)

    reading = Reading(store=str(tmp_path), corpus=CORPUS)
    write(other, EMBEDDED, TRUNCATED, BAD)
    read = reading.outcomes(YEAR)
    write(other, EMBEDDED, TRUNCATED, BAD)
    earlier = reading.earlier(YEAR, SPACE_ID)

    assert read == OUTCOMES
    assert earlier == {BAD.text_hash: BAD}


def test_outcomes_of_a_partition_that_never_ran_say_what_to_materialise(tmp_path: Path) -> None:
    with pytest.raises(RecordMissing, match="materialise 'embeddings' first"):
        writer(tmp_path).outcomes(YEAR)


def test_earlier_outcomes_are_those_quarantined_in_the_same_window_and_space(
    tmp_path: Path,
) -> None:
    store, june = writer(tmp_path), Window(date(2013, 6, 1), date(2013, 7, 1))
    assert store.earlier(YEAR, SPACE.id) == {}

    write(store, EMBEDDED, TRUNCATED, BAD)

    assert store.earlier(YEAR, SPACE.id) == {BAD.text_hash: BAD}
    assert store.earlier(YEAR, "another space") == store.earlier(june, SPACE.id) == {}


def test_what_a_failed_run_found_at_fault_is_known_until_a_run_ends_well(tmp_path: Path) -> None:
    store, found_now = writer(tmp_path), replace(BAD, attempts=3)
    write(store, EMBEDDED, TRUNCATED, BAD)

    store.write_rejected(YEAR, SPACE, CUT_BY, [found_now])
    known, changed = store.earlier(YEAR, SPACE.id), store.quarantined_in([BAD.text_hash])
    published = store.outcomes(YEAR)
    store.change_quarantined([BAD.text_hash], lambda row: replace(row, attempts=0))
    retried = store.earlier(YEAR, SPACE.id)
    write(store, EMBEDDED)

    assert known == {BAD.text_hash: found_now}
    assert changed == {BAD.text_hash: [YEAR.name]}
    assert published == OUTCOMES
    assert retried == {BAD.text_hash: replace(BAD, attempts=0)}
    assert store.earlier(YEAR, SPACE.id) == {}


def test_listed_texts_are_of_runs_that_ended_well_and_not_forgotten(tmp_path: Path) -> None:
    store = writer(tmp_path)
    forgotten = replace(BAD, text_hash=sha256("d"), is_forgotten=True)
    write(store, EMBEDDED, BAD, forgotten)

    store.write_rejected(YEAR, SPACE, CUT_BY, [replace(BAD, text_hash=sha256("e"))])

    assert store.not_forgotten() == {BAD.text_hash}


def test_of_a_text_in_what_a_kill_left_behind_the_more_attempts_are_known(tmp_path: Path) -> None:
    store, newer = writer(tmp_path), replace(BAD, attempts=3)
    write(store, EMBEDDED, newer)

    store.write_rejected(YEAR, SPACE, CUT_BY, [BAD])

    assert store.earlier(YEAR, SPACE.id) == {BAD.text_hash: newer}


def test_what_a_run_that_ends_well_removes_meanwhile_is_not_missed(tmp_path: Path) -> None:
    store, rejected = writer(tmp_path), tmp_path / "embeddings" / CORPUS / "rejected"

    class Names(list[str]):
        def __contains__(self, name: object) -> bool:
            shutil.rmtree(rejected, ignore_errors=True)
            return super().__contains__(name)

    def keep_both() -> None:
        write(store, EMBEDDED, BAD)
        store.write_rejected(YEAR, SPACE, CUT_BY, [BAD])

    keep_both()
    found = store.quarantined_in(Names([BAD.text_hash]))
    keep_both()
    store.change_quarantined(Names([BAD.text_hash]), lambda row: replace(row, attempts=0))

    assert found == {BAD.text_hash: [YEAR.name]}
    assert store.earlier(YEAR, SPACE.id) == {BAD.text_hash: replace(BAD, attempts=0)}


def test_a_quarantined_text_is_changed_in_every_window_and_others_are_not(tmp_path: Path) -> None:
    store, june = writer(tmp_path), Window(date(2013, 6, 1), date(2013, 7, 1))
    write(store, EMBEDDED, BAD)
    write(store, EMBEDDED, TRUNCATED, BAD, window=june)
    names = [EMBEDDED.text_hash, BAD.text_hash]

    found = store.quarantined_in(names)
    store.change_quarantined(names, lambda row: replace(row, attempts=0))

    assert found == {BAD.text_hash: sorted([YEAR.name, june.name])}
    again = {BAD.text_hash: replace(BAD, attempts=0)}
    of_june = {"embedded": 1, "truncated": 1, "quarantined": 1}
    assert store.outcomes(june) == Outcomes(SPACE, CUT_BY, of_june, again)
    of_year = {"embedded": 1, "quarantined": 1}
    assert store.outcomes(YEAR) == Outcomes(SPACE, CUT_BY, of_year, again)


def test_the_canary_of_a_space_is_kept_for_later_runs(tmp_path: Path) -> None:
    vector = np.float32([0.6, 0.8])
    assert writer(tmp_path).canary("s") is None

    writer(tmp_path).keep_canary("s", vector)

    np.testing.assert_array_equal(writer(tmp_path).canary("s"), vector)
    assert writer(tmp_path).canary("another") is None
