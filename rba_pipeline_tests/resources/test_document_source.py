"""The folder, the catalogue and the parsed documents: nothing read twice, nothing lost silently."""

import json
import os
from collections.abc import Iterator
from datetime import date
from importlib.resources import files as package_files
from io import BytesIO
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rba_pipeline.core.errors import BadSetting, DocumentRejected, RecordMissing, SourceUnavailable
from rba_pipeline.core.parsing.limits import ParseLimits
from rba_pipeline.resources.catalogue import Catalogue, Entry, read_entries, write_entries
from rba_pipeline.resources.catalogue_refresh import CatalogueRefresh, Place
from rba_pipeline.resources.document_source import DocumentSource
from rba_pipeline.resources.isolated_parser import IsolatedParser
from rba_pipeline.resources.source_folder import Found, LocalFolder, open_source
from rba_pipeline.resources.store_root import KeptRows, StoreRoot
from rba_pipeline_tests.resources.corpus import EVER, TODAY, Corpus, text_of

POISONED = "rba_pipeline_tests.resources.poisoned_child"


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path)


# What is read, and when


def test_every_file_of_the_sample_corpus_is_a_document_or_quarantined(corpus: Corpus) -> None:
    sample = str(package_files("rba_pipeline") / "sample_corpus")

    refreshed = corpus.refresh(url=sample)

    assert (refreshed.files, refreshed.documents) == (15, 14)
    assert corpus.reasons() == {"notes/on-the-office-clock.txt": "undated"}
    assert {day.year for day in corpus.catalogue().filing_dates()} == {2019, 2020, 2021, 2022, 2023}
    for document in corpus.source().read(corpus.catalogue().all_documents()):
        assert "invented sample" in " ".join(section.text for section in document.sections).lower()


def test_documents_are_read_in_order_of_date(corpus: Corpus) -> None:
    corpus.put("b.txt", text_of("3 May 2020", "late"))
    corpus.put("a/c.txt", text_of("2 May 2020", "early"))
    corpus.refresh()

    documents = list(corpus.source().read(corpus.catalogue().documents(*EVER)))

    assert [document.path for document in documents] == ["a/c.txt", "b.txt"]
    assert documents[0].sections[0].text == "2 May 2020\n\nearly"
    assert (documents[0].corpus, documents[0].published_on) == ("c", date(2020, 5, 2))


def test_a_window_holds_its_first_day_but_not_its_end(corpus: Corpus) -> None:
    corpus.put("a.txt", text_of("1 January 2020"))
    corpus.put("b.txt", text_of("1 January 2021"))
    corpus.refresh()

    window = corpus.catalogue().documents(date(2020, 1, 1), date(2021, 1, 1))

    assert [entry.path for entry in window] == ["a.txt"]


def test_nothing_is_parsed_or_written_when_nothing_changed(corpus: Corpus) -> None:
    corpus.put("a.txt", text_of("3 May 2020"))
    corpus.put("empty.txt", "")
    corpus.put("b.docx", "x")
    first = corpus.refresh()
    written = corpus.files()

    second = corpus.refresh()

    assert (first.parsed, second.parsed, second.unchanged) == (2, 0, 3)
    assert corpus.files() == written


def test_a_file_that_was_only_touched_is_not_parsed_again(corpus: Corpus) -> None:
    file = corpus.put("a.txt", text_of("3 May 2020"))
    corpus.refresh()
    os.utime(file, ns=(1, 1))

    assert corpus.refresh().parsed == 0
    assert corpus.refresh().unchanged == 1


def test_only_the_changed_file_is_parsed_and_its_old_part_goes_a_refresh_later(
    corpus: Corpus,
) -> None:
    corpus.put("a.txt", text_of("3 May 2020", "before"))
    corpus.refresh()
    old = corpus.catalogue().all_documents()
    corpus.put("a.txt", text_of("3 May 2020", "after"))
    corpus.put("b.txt", text_of("4 May 2020"))

    changed = corpus.refresh()

    assert changed.parsed == 2
    assert "before" in next(corpus.source().read(old)).sections[0].text
    new = corpus.catalogue().all_documents()
    assert new[0].document_id == old[0].document_id
    assert new[0].content_hash != old[0].content_hash
    assert "after" in next(corpus.source().read(new)).sections[0].text
    assert len(corpus.files()) == 3

    corpus.refresh()

    assert len(corpus.files()) == 2
    with pytest.raises(RecordMissing, match="refresh"):
        next(corpus.source().read(old))


def test_a_lost_part_is_made_again(corpus: Corpus) -> None:
    corpus.put("a.txt", text_of("3 May 2020"))
    corpus.refresh()
    next(corpus.store.rglob("part-*.parquet")).unlink()

    assert corpus.refresh().parsed == 1
    assert len(list(corpus.source().read(corpus.catalogue().all_documents()))) == 1


def test_a_removed_file_leaves_the_catalogue(corpus: Corpus) -> None:
    corpus.put("a.txt", text_of("3 May 2020"))
    corpus.put("b.txt", text_of("4 May 2020")).touch()
    corpus.refresh()
    (corpus.folder / "b.txt").unlink()

    assert corpus.refresh().removed == 1
    assert corpus.paths() == ["a.txt"]


def test_progress_counts_the_files_to_read(corpus: Corpus) -> None:
    corpus.put("a.txt", text_of("3 May 2020"))
    corpus.put("b.txt", "")
    seen: list[tuple[int, int]] = []

    corpus.source().refresh(TODAY, lambda done, total: seen.append((done, total)))

    assert seen == [(1, 2), (2, 2)]


def test_what_time_does_not_reach_is_left_and_nothing_is_gone_before_it(corpus: Corpus) -> None:
    renamed = corpus.put("a.txt", text_of("3 May 2020"))
    corpus.put("kept.txt", text_of("5 May 2020"))
    corpus.refresh()
    renamed.rename(corpus.folder / "z.txt")
    corpus.put("b.txt", text_of("4 May 2020"))

    first = corpus.source().refresh(TODAY, budget_s=0)
    between = corpus.paths()
    second = corpus.source().refresh(TODAY, budget_s=0)

    assert (first.left, first.parsed, first.removed) == (1, 1, 0)
    assert between == ["a.txt", "b.txt", "kept.txt"]
    assert (second.left, second.parsed, second.removed) == (0, 1, 1)
    assert corpus.paths() == ["z.txt", "b.txt", "kept.txt"]


def test_a_file_that_takes_too_long_for_a_look_is_left_and_not_quarantined(corpus: Corpus) -> None:
    corpus.put("a.txt", "wait")
    corpus.put("b.txt", text_of("4 May 2020"))
    source = LocalFolder(str(corpus.folder))
    place = Place(StoreRoot(str(corpus.store)), "c", "catalogue/c")

    with IsolatedParser(program=POISONED, file_s=0.05) as parser:
        refresh = CatalogueRefresh(place, source, parser, {}, {})
        refresh.run(source.walk(), None)
    corpus.put("a.txt", text_of("3 May 2020"))
    after = corpus.refresh()

    assert (refresh.left, refresh.parsed, refresh.entries) == (2, 0, {})
    assert (after.left, after.parsed, after.documents) == (0, 2, 2)


def test_a_kill_loses_only_what_was_not_flushed(corpus: Corpus) -> None:
    for number in range(300):
        corpus.put(f"{number:03}.txt", text_of("3 May 2020"))

    class Killed(BaseException):
        pass

    def kill(done: int, total: int) -> None:
        if done == 290:
            raise Killed

    with pytest.raises(Killed):
        corpus.source().refresh(TODAY, kill)
    resumed = corpus.refresh()

    assert (resumed.parsed, resumed.documents) == (300 - 256, 300)


def test_a_kill_forgets_nothing_that_was_known_before(corpus: Corpus) -> None:
    corpus.put("z.txt", text_of("3 May 2020"))
    corpus.refresh()
    for number in range(256):
        corpus.put(f"{number:03}.txt", text_of("3 May 2020"))
    corpus.put("z.txt", text_of("4 May 2020"))

    class Killed(BaseException):
        pass

    def kill(done: int, total: int) -> None:
        if done == total:
            raise Killed

    with pytest.raises(Killed):
        corpus.source().refresh(TODAY, kill)

    assert len(corpus.paths()) == 257


# The manifest


def test_a_manifest_says_which_files_are_publications_and_what_they_are(corpus: Corpus) -> None:
    corpus.put("a.txt", text_of("3 May 2020"))
    corpus.put("other.txt", text_of("3 May 2020"))
    row = {"path": "a.txt", "date": "2021-01-02", "title": "T", "kind": "k"}
    corpus.manifest({**row, "url": "https://bank.example/a"}, {"path": "gone.txt"})

    refreshed = corpus.refresh()

    assert (refreshed.files, refreshed.ignored) == (2, 1)
    entry = corpus.catalogue().all_documents()[0]
    assert (entry.published_on, entry.dated_by) == (date(2021, 1, 2), "manifest")
    assert (entry.title, entry.series, entry.url) == ("T", "k", "https://bank.example/a")
    assert corpus.reasons() == {"gone.txt": "missing"}


def test_a_changed_row_of_the_manifest_is_enough_to_parse_again(corpus: Corpus) -> None:
    corpus.put("a.txt", "words")
    corpus.put("b.txt", "words")
    corpus.manifest({"path": "a.txt"}, {"path": "b.txt", "date": "2020-01-01"})
    corpus.refresh()
    assert corpus.reasons() == {"a.txt": "undated"}
    corpus.manifest(
        {"path": "a.txt", "date": "2020-01-02"}, {"path": "b.txt", "date": "2020-01-01"}
    )

    assert corpus.refresh().parsed == 1
    assert corpus.reasons() == {}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("{", id="no-json"),
        pytest.param("[1]", id="no-object"),
        pytest.param('{"title": "x"}', id="no-path"),
        pytest.param('{"path": "a.txt", "date": 2020}', id="date-is-a-number"),
        pytest.param('{"path": "a"}\n{"path": "a", "date": "2020-01-01"}', id="contradiction"),
        pytest.param(b"\xff", id="no-utf-8"),
    ],
)
def test_a_broken_manifest_changes_nothing(corpus: Corpus, text: str | bytes) -> None:
    corpus.put("a.txt", text_of("3 May 2020"))
    corpus.refresh()
    corpus.put("manifest.jsonl", text)

    with pytest.raises(SourceUnavailable, match="Nothing was changed"):
        corpus.refresh()
    assert corpus.paths() == ["a.txt"]


# Duplicates and dates


def test_of_two_files_with_one_address_the_first_by_path_is_the_document(corpus: Corpus) -> None:
    link = '<link rel="canonical" href="https://bank.example/x"><h1>T</h1><p>3 May 2020</p>'
    corpus.put("a.html", link)
    corpus.put("b.html", link + "<p>other</p>")
    corpus.refresh()
    assert (corpus.paths(), corpus.reasons()) == (["a.html"], {"b.html": "duplicate"})
    assert "a.html" in corpus.catalogue().quarantine()[0].detail
    (corpus.folder / "a.html").unlink()

    assert corpus.refresh().parsed == 0
    assert (corpus.paths(), corpus.reasons()) == (["b.html"], {})


def test_a_file_of_the_future_becomes_a_document_on_its_day(corpus: Corpus) -> None:
    corpus.put("old.txt", text_of("31 December 1989"))
    corpus.put("soon.txt", text_of("1 June 2024"))
    corpus.put("later.txt", text_of("2 June 2024"))
    corpus.refresh()
    out_of_range = {"old.txt": "date_out_of_range", "later.txt": "date_out_of_range"}

    assert (corpus.paths(), corpus.reasons()) == (["soon.txt"], out_of_range)
    tomorrow = corpus.source().catalogue(date(2024, 6, 2))
    assert [entry.path for entry in tomorrow.all_documents()] == ["soon.txt", "later.txt"]
    assert corpus.catalogue(first_year=1980).documents(*EVER)[0].path == "old.txt"


entries = st.builds(
    Entry,
    path=st.text("abc", min_size=1),
    size=st.just(1),
    modified=st.just("m"),
    sha256=st.just("s"),
    stated_hash=st.just(""),
    parser_version=st.just(1),
    document_id=st.sampled_from("xyz"),
    published_on=st.dates(date(1980, 1, 1), date(2030, 1, 1)),
    reason=st.sampled_from([None, None, "empty"]),
)


@settings(max_examples=100)
@given(st.lists(entries, unique_by=lambda entry: entry.path), st.dates(date(1995, 1, 1)))
def test_documents_and_quarantine_are_all_files_and_no_file_twice(
    rows: list[Entry], today: date
) -> None:
    catalogue = Catalogue(tuple(rows), 1990, today)

    paths = [entry.path for entry in catalogue.all_documents()]
    paths += [item.path for item in catalogue.quarantine()]

    assert sorted(paths) == sorted(entry.path for entry in rows)


def test_a_catalogue_of_an_earlier_version_is_read() -> None:
    entry = Entry("a.txt", 1, "m", "s", "", 1, document_id="x", published_on=date(2020, 1, 1))
    file = BytesIO()
    write_entries(file, [entry])
    earlier = pq.read_table(BytesIO(file.getvalue())).drop_columns(["limits"])
    file = BytesIO()
    pq.write_table(earlier, file)

    assert read_entries(KeptRows("catalogue.parquet", file)) == [entry]


# Folders that are not there


def test_a_missing_folder_is_an_error_and_no_mass_delete(corpus: Corpus) -> None:
    corpus.put("a.txt", text_of("3 May 2020"))
    corpus.refresh()
    corpus.folder.rename(corpus.folder.with_name("elsewhere"))

    with pytest.raises(SourceUnavailable, match=rf"{corpus.folder}.*Nothing was changed"):
        corpus.refresh()
    assert corpus.paths() == ["a.txt"]


@pytest.mark.parametrize("listed", [False, True], ids=["no-manifest", "manifest-without-its-files"])
def test_an_empty_folder_is_refused_unless_meant(corpus: Corpus, listed: bool) -> None:
    file = corpus.put("a.txt", text_of("3 May 2020"))
    if listed:
        corpus.manifest({"path": "a.txt"})
    corpus.refresh()
    file.unlink()

    with pytest.raises(SourceUnavailable, match=r"not mounted.*allow_mass_delete"):
        corpus.refresh()
    assert corpus.paths() == ["a.txt"]

    corpus.refresh(allow_mass_delete=True)
    assert corpus.paths() == []


@pytest.mark.case("T12")
@pytest.mark.parametrize("gone", [11, 29])
def test_a_folder_that_is_not_mounted_takes_nothing_with_it_unless_meant(
    corpus: Corpus, gone: int
) -> None:
    """A few may go unasked, or a fifth of all."""
    files = [
        corpus.put(f"mounted/{n}.txt", text_of("3 May 2020", f"words {n}")) for n in range(gone)
    ]
    for n in range(30 - gone):
        corpus.put(f"{n}.txt", text_of("3 May 2020", f"words {gone + n}"))
    corpus.refresh()
    for file in files:
        file.unlink()

    with pytest.raises(
        SourceUnavailable, match=rf"holds {30 - gone} of the 30 .*allow_mass_delete"
    ):
        corpus.refresh()
    assert len(corpus.paths()) == 30

    corpus.refresh(allow_mass_delete=True)
    assert len(corpus.paths()) == 30 - gone


@pytest.mark.case("T12")
@pytest.mark.parametrize(("known", "gone"), [(12, 10), (60, 12)])
def test_a_few_documents_or_a_fifth_go_unasked(corpus: Corpus, known: int, gone: int) -> None:
    files = [corpus.put(f"{n}.txt", text_of("3 May 2020", f"words {n}")) for n in range(known)]
    corpus.refresh()
    for file in files[:gone]:
        file.unlink()

    assert corpus.refresh().removed == gone
    assert len(corpus.paths()) == known - gone


def test_another_folder_of_the_same_name_is_refused_unless_meant(corpus: Corpus) -> None:
    corpus.put("b.txt", text_of("4 May 2020"))
    corpus.refresh()
    (corpus.folder / "b.txt").rename(corpus.folder / "c.txt")

    with pytest.raises(SourceUnavailable, match=r"another one of the same name.*RBA_CORPUS"):
        corpus.refresh()
    assert corpus.paths() == ["b.txt"]


def test_an_empty_folder_is_no_error_the_first_time(corpus: Corpus) -> None:
    assert corpus.refresh().files == 0
    assert corpus.catalogue().entries == ()


def test_a_corpus_whose_name_is_no_folder_is_refused(corpus: Corpus) -> None:
    with pytest.raises(BadSetting, match=r"corpus='\.\./c'"):
        corpus.refresh(corpus="../c")


# Strange files


def test_strange_files_never_block_and_are_accounted_for(corpus: Corpus, tmp_path: Path) -> None:
    corpus.put("ok.txt", text_of("3 May 2020"))
    corpus.put("folder.txt/inner.txt", text_of("3 May 2020"))
    corpus.put(".hidden.txt", "x")
    corpus.put("README.md", "x")
    corpus.put("sub/README.md", "# T\n3 May 2020\n\nx")
    (tmp_path / "secret.txt").write_text(text_of("3 May 2020"))
    (corpus.folder / "out.txt").symlink_to(tmp_path / "secret.txt")
    (corpus.folder / "out").symlink_to(tmp_path)
    (corpus.folder / "in.txt").symlink_to("ok.txt")
    (corpus.folder / "dangling.txt").symlink_to("nowhere.txt")
    (corpus.folder / "loop.txt").symlink_to("loop.txt")
    os.mkfifo(corpus.folder / "pipe.txt")
    (Path(os.fsdecode(os.fsencode(corpus.folder) + b"/n\xff.txt"))).write_text("x")
    corpus.put("big.txt", "x" * 2000)

    refreshed = corpus.refresh(max_file_bytes=1024)

    assert corpus.paths() != []
    assert sorted(corpus.paths()) == ["folder.txt/inner.txt", "in.txt", "ok.txt", "sub/README.md"]
    assert corpus.reasons() == {
        "out.txt": "outside_source",
        "dangling.txt": "missing",
        "loop.txt": "unreadable",
        "pipe.txt": "unreadable",
        "n\\udcff.txt": "unreadable",
        "big.txt": "too_large",
    }
    assert refreshed.files == 10


def test_a_manifest_cannot_reach_outside_or_into_folders(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text(text_of("3 May 2020"))
    corpus.put("dir.txt/x", "x")
    paths = ["../secret.txt", str(tmp_path / "secret.txt"), "dir.txt", "a\0b.txt", "./dir.txt/x"]
    corpus.manifest(*({"path": path} for path in paths))

    corpus.refresh()

    assert list(corpus.reasons().values()).count("outside_source") == 2
    assert corpus.reasons()["dir.txt"] == "unreadable"
    assert corpus.reasons()["a\0b.txt"] == "unreadable"
    assert corpus.reasons()["dir.txt/x"] == "unsupported"


def test_a_larger_limit_takes_in_what_was_too_large(corpus: Corpus) -> None:
    corpus.put("a.txt", text_of("3 May 2020", "x" * 2000))
    corpus.refresh(max_file_bytes=1024)

    corpus.refresh()

    assert corpus.paths() == ["a.txt"]


class FailingFolder(LocalFolder):
    """A folder whose files can be listed, but not read as listed."""

    def __init__(self, root: str, problem: str) -> None:
        super().__init__(root)
        self.problem = problem

    def read(self, path: str, limit: int) -> bytes:
        if self.problem == "grew":
            return b"x" * limit
        raise DocumentRejected(self.problem, "as the test wants it")


def refresh_with(corpus: Corpus, problem: str) -> CatalogueRefresh:
    source = FailingFolder(str(corpus.folder), problem)
    before = {entry.path: entry for entry in corpus.catalogue().entries}
    place = Place(StoreRoot(str(corpus.store)), "c", "catalogue/c")
    with IsolatedParser(ParseLimits(max_file_bytes=1024)) as parser:
        refresh = CatalogueRefresh(place, source, parser, before, {})
        refresh.run(source.walk(), None)
    return refresh


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        pytest.param("unreadable", "unreadable", id="no-permission"),
        pytest.param("missing", "missing", id="vanished-after-listing"),
        pytest.param("grew", "too_large", id="grew-after-listing"),
    ],
)
def test_a_file_that_cannot_be_read_is_tried_again_next_time(
    corpus: Corpus, problem: str, reason: str
) -> None:
    corpus.put("a.txt", text_of("3 May 2020"))
    refresh_with(corpus, problem)
    assert corpus.reasons() == {"a.txt": reason}

    corpus.refresh()

    assert corpus.paths() == ["a.txt"]


@pytest.mark.parametrize("problem", ["unreadable", "missing"])
def test_a_file_that_is_listed_and_cannot_be_read_for_a_moment_keeps_its_document(
    corpus: Corpus, problem: str
) -> None:
    corpus.put("a.txt", text_of("3 May 2020"))
    corpus.refresh()
    corpus.put("a.txt", text_of("3 May 2020", "other words"))

    assert refresh_with(corpus, problem).kept == 1
    assert corpus.paths() == ["a.txt"]
    assert corpus.refresh().parsed == 1


def test_a_document_that_is_deleted_between_listing_and_reading_goes_with_the_next_listing(
    corpus: Corpus,
) -> None:
    corpus.put("a.txt", text_of("3 May 2020"))
    gone = corpus.put("b.txt", text_of("4 May 2020"))
    corpus.refresh()
    for name in ("a.txt", "b.txt"):
        corpus.put(name, text_of("3 May 2020", "other words"))

    first = corpus.source().refresh(TODAY, lambda done, total: gone.unlink(missing_ok=True))
    second = corpus.refresh()

    assert (first.kept, first.removed) == (1, 0)
    assert (second.kept, second.removed) == (0, 1)
    assert corpus.paths() == ["a.txt"]


# Other file systems


@pytest.fixture
def bucket() -> Iterator[Any]:
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


def test_any_fsspec_url_is_a_source_and_a_store(bucket: Any) -> None:
    bucket.pipe("/in/site/a.txt", text_of("3 May 2020").encode())
    bucket.pipe("/in/site/.hidden/b.txt", b"x")
    bucket.pipe("/in/c.bin", b"x")
    source = DocumentSource(url="memory://in", corpus="c", store="memory://out")

    first, second = source.refresh(TODAY), source.refresh(TODAY)

    assert (first.files, first.documents, first.quarantined) == (2, 1, {"unsupported": 1})
    assert second.parsed == 0
    assert next(source.read(source.catalogue(TODAY).all_documents())).path == "site/a.txt"


def test_a_manifest_works_on_any_file_system(bucket: Any) -> None:
    bucket.pipe("/in/a.txt", b"words")
    rows = [{"path": "a.txt", "date": "2020-01-01"}, {"path": "../b.txt"}, {"path": "gone.txt"}]
    bucket.pipe("/in/manifest.jsonl", "\n".join(map(json.dumps, rows)).encode())
    source = DocumentSource(url="memory://in", corpus="c", store="memory://out")

    source.refresh(TODAY)

    assert [entry.path for entry in source.catalogue(TODAY).all_documents()] == ["a.txt"]
    reasons = {item.path: item.reason for item in source.catalogue(TODAY).quarantine()}
    assert reasons == {"../b.txt": "outside_source", "gone.txt": "missing"}


@pytest.mark.parametrize("url", ["memory://nowhere", "nosuch://x"])
def test_a_source_that_is_not_there_is_an_error(bucket: Any, url: str) -> None:
    source = DocumentSource(url=url, corpus="c", store="memory://out")

    with pytest.raises(SourceUnavailable, match="Nothing was changed"):
        source.refresh(TODAY)


def test_a_pipe_that_takes_the_place_of_a_listed_file_does_not_block(corpus: Corpus) -> None:
    os.mkfifo(corpus.folder / "a.txt")

    with pytest.raises(DocumentRejected, match="pipe"):
        open_source(str(corpus.folder)).read("a.txt", 10)
    assert isinstance(open_source(str(corpus.folder)).look("a.txt"), Found)
