"""Cases T: whatever lies in the folder, it is a document or has a reason, and the run goes on."""

import os
import random
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from rba_pipeline.core.chunks import Chunker, ChunkSettings, passage_of
from rba_pipeline.core.documents import Document, Section, normalise
from rba_pipeline.core.errors import DocumentRejected, SourceUnavailable
from rba_pipeline.resources.source_folder import LocalFolder, open_source
from rba_pipeline_tests.bad_documents import (
    BAD,
    GOOD,
    WORDS,
    Case,
    flate_bomb,
    one_page,
    shown,
    wide_lines,
    zipped,
)
from rba_pipeline_tests.faults.invariants import check_invariants
from rba_pipeline_tests.installation import Installation, failures, total
from rba_pipeline_tests.oracle_service import OracleService, tokenizer_json
from rba_pipeline_tests.resources.corpus import TODAY, Corpus, text_of

MEBIBYTE = 2**20
# Tight, so that a test need not wait for what a run would wait for.
LIMITS = {"max_parse_s": 2, "max_parse_memory_bytes": 256 * MEBIBYTE}
LIMIT_OF = {
    "too_large": "RBA_MAX_CHARACTERS",
    "too_many_pages": "RBA_MAX_PAGES",
    "timeout": "RBA_MAX_PARSE_S",
    "bomb": "RBA_MAX_PARSE_MEMORY_BYTES",
}
NEIGHBOURS = 50


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path)


def cases(those: tuple[Case, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in those])


def texts(corpus: Corpus) -> list[str]:
    """Return the text of each document, in order."""
    documents = corpus.source().read(corpus.catalogue().all_documents())
    return ["\n\n".join(part.text for part in document.sections) for document in documents]


# T1 to T6, each alone


@cases(BAD)
def test_a_bad_file_has_its_reason_and_is_not_parsed_again(corpus: Corpus, case: Case) -> None:
    corpus.put(case.path, case.make())

    corpus.refresh(**LIMITS)
    again = corpus.refresh(**LIMITS)

    [refused] = corpus.catalogue().quarantine()
    assert (refused.path, refused.reason) == (case.path, case.expected)
    assert corpus.paths() == []
    assert (again.parsed, again.unchanged) == (0, 1)
    # Of a limit, the detail says which variable changes it.
    assert LIMIT_OF.get(case.expected, "") in refused.detail


@cases(GOOD)
def test_a_strange_but_good_file_is_a_document(corpus: Corpus, case: Case) -> None:
    corpus.put(case.path, case.make())

    corpus.refresh(**LIMITS)

    assert corpus.reasons() == {}
    [text] = texts(corpus)
    assert case.expected in text
    assert "secret" not in text
    assert normalise(text) == text


@pytest.mark.parametrize(
    "encoding", [pytest.param(name, id=f"T2-{name}") for name in ("utf-8-sig", "utf-16", "cp1252")]
)
def test_one_text_has_one_identity_however_it_is_encoded(corpus: Corpus, encoding: str) -> None:
    corpus.put(
        "a.txt", text_of("3 May 2012", "The café – closed.").replace("\n", "\r\n").encode(encoding)
    )

    corpus.refresh()

    [entry] = corpus.catalogue().all_documents()
    # On every machine alike.
    assert entry.document_id == "b4fc9fef96095db8ddea09a221bfe172"
    assert entry.content_hash.startswith("4515ee845d430cb5173602eda24da9ae")


def test_t3_a_file_of_100_mb_is_refused_unread(corpus: Corpus) -> None:
    with (corpus.folder / "2012-05-03.txt").open("wb") as file:
        file.truncate(100 * MEBIBYTE)

    corpus.refresh()

    assert corpus.reasons() == {"2012-05-03.txt": "too_large"}
    assert "RBA_MAX_FILE_BYTES" in corpus.catalogue().quarantine()[0].detail


@pytest.mark.parametrize(
    ("raw", "lines", "mebibytes"),
    [
        pytest.param(b"Title\n" + b"a toll\n" * 1_000_000, 1_000_000, 512, id="T3-short"),
        # With less memory it is a bomb.
        pytest.param(wide_lines(), 1_200_000, 768, id="T3-wide"),
    ],
)
def test_a_million_lines_are_a_document(
    corpus: Corpus, raw: bytes, lines: int, mebibytes: int
) -> None:
    corpus.put("2012-05-03.txt", raw)

    corpus.refresh(max_parse_memory_bytes=mebibytes * MEBIBYTE)

    [text] = texts(corpus)
    assert text.count(" toll") == lines


def test_t4_what_a_manifest_says_is_cleaned_as_well(corpus: Corpus) -> None:
    corpus.put("a.txt", WORDS)
    corpus.manifest(
        {
            "path": "a.txt",
            "date": "2012-05-03",
            "title": "To\ud83dll\x00s\ue000\uffff",
            "kind": "k\x07",
        }
    )

    corpus.refresh()

    [entry] = corpus.catalogue().all_documents()
    assert (entry.title, entry.series) == ("Tolls\ue000", "k")


# What was published, and other limits


def test_t6_a_published_file_that_turns_into_a_bomb_keeps_its_last_good_version(
    corpus: Corpus,
) -> None:
    corpus.put("2012-05-03.pdf", one_page(shown(WORDS)))
    corpus.refresh(**LIMITS)
    corpus.put("2012-05-03.pdf", one_page(flate_bomb()))

    turned = corpus.refresh(**LIMITS)
    again = corpus.refresh(**LIMITS)

    assert texts(corpus) == [WORDS]
    assert [item.reason for item in corpus.catalogue().outdated()] == ["bomb"]
    assert (turned.kept, again.kept, again.unchanged) == (1, 0, 1)


@pytest.mark.parametrize("published", [False, True], ids=["T6-new-file", "T6-published-before"])
def test_other_limits_take_in_what_the_limits_kept_out(corpus: Corpus, published: bool) -> None:
    if published:
        corpus.put("2012-05-03.txt", "Title\n\nShort.")
        corpus.refresh(max_characters=1000)
    corpus.put("2012-05-03.txt", "Title\n\n" + "toll " * 1000)
    corpus.refresh(max_characters=1000)
    assert texts(corpus) == ["Short."] * published

    corpus.refresh(max_characters=10_000)

    assert [len(text) for text in texts(corpus)] == [4999]
    assert corpus.catalogue().outdated() == []


# T8: what is no ordinary file


def fifo(place: Path, outside: Path) -> None:
    os.mkfifo(place)


def listener(place: Path, outside: Path) -> None:
    os.mknod(place, 0o600 | stat.S_IFSOCK)


def device(place: Path, outside: Path) -> None:
    try:
        os.mknod(place, 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    except PermissionError:
        # A device that is there already is read in a test of its own.
        pytest.skip("this user may not make devices")


def link_to_password_file(place: Path, outside: Path) -> None:
    place.symlink_to("/etc/passwd")


def link_to_device(place: Path, outside: Path) -> None:
    place.symlink_to("/dev/zero")


def link_up(place: Path, outside: Path) -> None:
    place.symlink_to(os.path.relpath(outside / "secret.txt", place.parent))


def link_to_itself(place: Path, outside: Path) -> None:
    place.symlink_to(place.name)


STRANGE = (
    pytest.param(fifo, "unreadable", id="T8-fifo"),
    pytest.param(listener, "unreadable", id="T8-socket"),
    pytest.param(device, "unreadable", id="T8-device"),
    pytest.param(link_to_password_file, "outside_source", id="T8-link-to-etc-passwd"),
    pytest.param(link_to_device, "outside_source", id="T8-link-to-device"),
    pytest.param(link_up, "outside_source", id="T8-link-up"),
    pytest.param(link_to_itself, "unreadable", id="T8-link-to-itself"),
)


@pytest.mark.parametrize(("make", "reason"), STRANGE)
def test_what_is_no_file_of_the_folder_is_refused_and_never_waited_for(
    corpus: Corpus, tmp_path: Path, make: Callable[[Path, Path], None], reason: str
) -> None:
    (tmp_path / "secret.txt").write_text(text_of("3 May 2012"))
    make(corpus.folder / "2012-05-03.txt", tmp_path)

    corpus.refresh()

    assert corpus.reasons() == {"2012-05-03.txt": reason}
    with pytest.raises(DocumentRejected, match=reason):
        open_source(str(corpus.folder)).read("2012-05-03.txt", 10)


def test_t8_a_device_is_refused_and_not_read() -> None:
    with pytest.raises(DocumentRejected, match="unreadable"):
        open_source("/dev").read("zero", 10)


def test_t8_a_folder_that_is_called_like_a_file_is_a_folder(corpus: Corpus) -> None:
    corpus.put("2012-05-03.txt/2012-05-04.txt", WORDS)

    corpus.refresh()

    assert (corpus.paths(), corpus.reasons()) == (["2012-05-03.txt/2012-05-04.txt"], {})


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, id=f"T8-{name}") for name in ("a\\..\\..\\b.txt", "%2e%2e.txt", "C:a.txt")],
)
def test_a_name_that_would_climb_elsewhere_is_only_a_name(corpus: Corpus, name: str) -> None:
    corpus.put(name, text_of("3 May 2012"))

    corpus.refresh()

    assert corpus.paths() == [name]


def test_t8_an_archive_is_never_unpacked(corpus: Corpus, tmp_path: Path) -> None:
    corpus.put("a/b.zip", zipped("../../escaped.txt", b"words"))
    corpus.put("a/c.txt", zipped("../../escaped.txt", b"words"))

    corpus.refresh()

    assert set(corpus.reasons()) == {"a/b.zip", "a/c.txt"}
    assert list(tmp_path.rglob("escaped*")) == []


@contextmanager
def nobody() -> Iterator[None]:
    """Be a user who may not read what others hide; root may read everything."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_t8_a_file_without_permission_is_unreadable() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        hidden, open_to_all = Path(folder, "2012-05-03.txt"), Path(folder, "2012-05-04.txt")
        for file, mode in ((hidden, 0), (open_to_all, 0o644)):
            file.write_text(WORDS)
            file.chmod(mode)

        with nobody():
            source = open_source(folder)
            assert {found.path for found in source.walk()} == {hidden.name, open_to_all.name}
            assert source.read(open_to_all.name, 100) == WORDS.encode()
            with pytest.raises(DocumentRejected, match=r"unreadable: .*Permission denied"):
                source.read(hidden.name, 100)


class Racing(LocalFolder):
    """A folder in which something happens between the look at a file and its reading."""

    def __init__(self, root: Path, happens: Callable[[Path], None]) -> None:
        super().__init__(str(root))
        self.root = root
        self.happens = happens

    def _inside(self, path: str) -> str:
        resolved = super()._inside(path)
        self.happens(self.root / path)
        return resolved


def vanish(file: Path) -> None:
    file.unlink()


def become_a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def become_a_link(file: Path) -> None:
    file.unlink()
    file.symlink_to("/etc/passwd")


def have_its_folder_become_a_link(file: Path) -> None:
    file.parent.rename(file.parent.with_name("before"))
    file.parent.symlink_to("/etc")


@pytest.mark.parametrize(
    ("happens", "reason"),
    [
        pytest.param(vanish, "missing", id="T8-vanishes"),
        pytest.param(become_a_pipe, "unreadable", id="T8-becomes-a-pipe"),
        pytest.param(become_a_link, "unreadable", id="T8-becomes-a-link"),
        pytest.param(have_its_folder_become_a_link, "unreadable", id="T8-folder-becomes-a-link"),
    ],
)
def test_what_changes_between_look_and_read_neither_blocks_nor_leads_outside(
    tmp_path: Path, happens: Callable[[Path], None], reason: str
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "passwd").write_text(WORDS)

    with pytest.raises(DocumentRejected, match=reason):
        Racing(tmp_path, happens).read("sub/passwd", 100)


def test_t8_a_file_that_grows_while_it_is_read_is_read_up_to_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"x" * 10)

    def grow(path: Path) -> None:
        path.write_bytes(b"x" * 5000)

    assert len(Racing(tmp_path, grow).read("a.txt", 1025)) == 1025


def test_t12_a_source_that_goes_away_while_it_is_read_takes_no_document_away(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "publications"
    folder.mkdir()
    (folder / "a.txt").write_text(WORDS)

    def unmount(path: Path) -> None:
        folder.rename(tmp_path / "elsewhere")

    with pytest.raises(SourceUnavailable, match="Nothing was changed"):
        Racing(folder, unmount).read("a.txt", 100)


@pytest.mark.parametrize("below", [".", "mounted"], ids=["all-of-it", "a-folder-with-all-files"])
def test_t12_a_source_that_is_unmounted_while_it_is_read_takes_no_document_away(
    corpus: Corpus, tmp_path: Path, below: str
) -> None:
    """What is left of a mount is an empty folder."""
    paths = [f"mounted/2012-05-{day:02}.txt" for day in range(1, 13)]
    if below != ".":
        corpus.manifest(*({"path": path} for path in paths))
    for path in paths:
        corpus.put(path, f"{path}\n\nbefore")
    corpus.refresh()
    for path in paths:
        corpus.put(path, f"{path}\n\nafter")
    mounted, away = corpus.folder / below, tmp_path / "away"

    def unmount(done: int, total: int) -> None:
        if done == 1:
            mounted.rename(away)
            mounted.mkdir()

    unmounted = corpus.source().refresh(TODAY, unmount)
    between = texts(corpus)
    with pytest.raises(SourceUnavailable, match="not mounted"):
        corpus.refresh()
    mounted.rmdir()
    away.rename(mounted)
    again = corpus.refresh()

    assert (unmounted.parsed, unmounted.kept, unmounted.removed) == (1, 11, 0)
    assert between == ["after"] + ["before"] * 11
    assert corpus.reasons() == {}
    assert (again.parsed, again.documents) == (11, 12)


# T14: chunks at the limit


def cut(words: int, prompt: str, size: int = 64) -> list[int]:
    """Return the tokens of each chunk of a text of ``words`` words of one token each."""
    settings = ChunkSettings(size, 0, prompt, "tokenizer")
    section = Section("Tolls", 1, None, " ".join(["toll"] * words))
    document = Document(
        document_id="d", corpus="c", path="a.txt", series="s", title="T", url=None,
        published_on=date(2012, 5, 3), dated_by="title", sections=(section,), sha256="",
        content_hash="",
    )  # fmt: skip
    chunks = list(Chunker(settings, tokenizer_json().decode()).cut(document))
    tokenizer = Tokenizer.from_str(tokenizer_json().decode())
    assert [chunk.tokens for chunk in chunks] == [
        len(tokenizer.encode(prompt + chunk.text).ids) for chunk in chunks
    ]
    assert sum(passage_of(chunk.text).count("toll") for chunk in chunks) == words
    return [chunk.tokens for chunk in chunks]


@pytest.mark.parametrize(
    "prompt",
    [pytest.param("", id="T14-no-prompt"), pytest.param("search_document: ", id="T14-prompt")],
)
def test_a_chunk_is_full_at_the_limit_and_split_one_token_beyond(prompt: str) -> None:
    [overhead] = cut(1, prompt)
    fitting = 64 - overhead + 1

    assert cut(fitting, prompt) == [64]
    assert len(cut(fitting + 1, prompt)) == 2
    assert max(cut(fitting + 1, prompt)) <= 64


def test_t14_a_prompt_counts_even_where_it_alone_is_too_much() -> None:
    fitting = 64 - cut(1, "")[0] + 1

    assert len(cut(fitting, "")) == 1
    assert len(cut(fitting, "search_document: ")) == 2


# All of them among healthy neighbours, to the end


def add_neighbours(installation: Installation) -> None:
    for number in range(NEIGHBOURS):
        installation.add(
            f"2012/{number:02}.html",
            title=f"Statement {number}",
            day=f"{number % 28 + 1} March 2012",
            paragraphs=[f"Healthy neighbour number {number} is stored whole."],
        )


def fill(installation: Installation, outside: Path) -> dict[str, str]:
    """Write every case and fifty healthy files; return the reason that each bad one must have."""
    add_neighbours(installation)
    expected = {}
    for case in (*BAD, *GOOD):
        file = installation.source / case.path
        file.write_bytes(case.make())
        if case in BAD:
            expected[case.path] = case.expected
    (outside / "secret.txt").write_text(text_of("3 May 2012", "The secret of the neighbour."))
    for parameter in STRANGE:
        make, reason = parameter.values
        if make is not device:
            path = f"2012/2012-05-03-{parameter.id}.txt"
            make(installation.source / path, outside)
            expected[path] = str(reason)
    return expected


def assert_neighbours_are_in(stored: Collection[str]) -> None:
    for number in range(NEIGHBOURS):
        assert any(f"Healthy neighbour number {number} is stored whole." in text for text in stored)


@pytest.mark.case("T1", "T2", "T3", "T4", "T6", "T8")
@pytest.mark.postgres
@pytest.mark.long
def test_all_bad_files_among_fifty_healthy_ones_have_a_reason_and_every_other_is_stored(
    installation: Installation, oracle: OracleService, tmp_path: Path
) -> None:
    installation.environment |= {
        f"RBA_{name.upper()}": str(value) for name, value in LIMITS.items()
    }
    expected = fill(installation, tmp_path)

    first = installation.run_all()
    sent = oracle.texts_sent
    again = installation.run_all()

    with installation.neighbours() as found:
        entries = {entry.name: entry.reason for entry in found.vector_store.quarantine()}
    assert failures(first) == failures(again) == []
    assert entries == expected
    assert total(first, "documents", "documents") == NEIGHBOURS + len(GOOD)
    stored = {row[6] for row in installation.rows().values()}
    assert_neighbours_are_in(stored)
    assert not any("secret" in text for text in stored)
    # What is hashed is what is sent is what is stored, and none of it is sent again.
    assert stored == set(sent) == {normalise(text) for text in stored}
    assert oracle.texts_sent == sent
    assert total(again, "documents", "parsed_files") == 0
    check_invariants(installation, oracle, again, resent=0)


@pytest.mark.postgres
@pytest.mark.long
# Its work takes more than a minute, and on a busy machine its database is dropped past the second.
@pytest.mark.timeout(300)
def test_t3_a_million_short_lines_among_neighbours_are_embedded_to_the_last(
    installation: Installation, oracle: OracleService
) -> None:
    installation.environment |= {"RBA_CHUNK_OVERLAP": "0", "EMBEDDING_BATCH_SIZE": "64"}
    add_neighbours(installation)
    dice = random.Random(3)
    lines = [str(dice.randrange(1000)) for _ in range(1_000_000)]
    (installation.source / "2012-05-03.txt").write_text("\n".join(["Tolls", *lines]))

    results = installation.run_all()

    rows = sorted(installation.rows().values(), key=lambda row: row[4])
    passages = [passage_of(row[6]) for row in rows if row[7] == date(2012, 5, 3)]
    assert failures(results) == []
    assert [line for passage in passages for line in passage.split()] == lines
    assert_neighbours_are_in({row[6] for row in rows})
    check_invariants(installation, oracle, results, resent=0)
