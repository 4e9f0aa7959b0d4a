"""Settings, and what is said about bad ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from embedding_service.cores import usable_cores
from embedding_service.errors import SettingRefused
from embedding_service.server import FILES_BESIDE
from embedding_service.settings import misspelt, read_settings
from rba_pipeline_tests.installation import ROOT


def refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> str:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingRefused) as refusal:
        read_settings()
    return str(refusal.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("EMBEDDING_PORT", "70000", "from 0 to 65535"),
        ("EMBEDDING_PORT", "http", "from 0 to 65535"),
        ("EMBEDDING_DEVICE", "tpu", "'auto', 'cpu', 'cuda' or 'mps'"),
        ("EMBEDDING_MAX_TEXTS", "0", "from 1 to 65536"),
        ("EMBEDDING_MAX_BATCH_TOKENS", "-1", "from 1 to 1048576"),
        ("EMBEDDING_SERVER_BATCH_SIZE", "1.5", "from 1 to 2048"),
        ("EMBEDDING_MAX_QUEUE_TOKENS", "", "from 1 to"),
        ("EMBEDDING_MAX_SEQ_LENGTH", "9000", "from 8 to 8192"),
        ("EMBEDDING_THREADS", "0", "from 1 to 1024"),
        ("EMBEDDING_DRAIN_SECONDS", "nan", "from 0"),
        ("EMBEDDING_API_KEY", "", "at least one"),
        ("EMBEDDING_API_KEY", "one,,two", "at least one for each of the keys"),
        ("EMBEDDING_API_KEY", "one,", "at least one for each of the keys"),
        ("EMBEDDING_MAX_REQUEST_MEMORY", "lots", "from 1048576 to"),
        ("EMBEDDING_MAX_REQUEST_MEMORY", "8MiB", "four times EMBEDDING_MAX_BODY_BYTES"),
        ("EMBEDDING_MAX_CONNECTIONS", "0", "from 1 to 65536"),
        ("EMBEDDING_BODY_SECONDS", "0", "from 0.1 to 3600"),
        ("EMBEDDING_MAX_MEMORY", "lots", "from 67108864 to"),
        ("EMBEDDING_MAX_MEMORY", "1MiB", "from 67108864 to"),
        ("EMBEDDING_WATCHDOG_SECONDS", "0", "from 1 to 3600"),
        ("EMBEDDING_LOG_FORMAT", "xml", "'text' or 'json'"),
    ],
)
def test_a_bad_value_is_named_with_its_range(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    message = refused(monkeypatch, name, value)

    assert message.startswith(f"{name}=")
    assert said in message
    assert len(message.splitlines()) == 1


def test_a_bad_key_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refused(monkeypatch, "EMBEDDING_API_KEY", "päss word")

    assert "word" not in message


def test_an_open_address_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMBEDDING_API_KEY", raising=False)

    assert "EMBEDDING_API_KEY: required" in refused(monkeypatch, "EMBEDDING_HOST", "0.0.0.0")


def test_several_keys_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDING_API_KEY", "new,old")

    assert read_settings().api_keys == ("new", "old")


def test_no_key_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMBEDDING_API_KEY", raising=False)

    assert read_settings(host="127.0.0.1").api_keys == ()


def test_every_bad_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDING_THREADS", "0")

    assert len(refused(monkeypatch, "EMBEDDING_PORT", "-1").splitlines()) == 2


def test_the_clients_variables_with_the_same_prefix_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EMBEDDING_BATCH_SIZE", "not ours")

    assert read_settings(port=0).port == 0


def test_what_seems_to_be_meant_for_a_setting_is_named() -> None:
    of_callers = ["BATCH_SIZE", "API_URL", "API_TIMEOUT", "PRESET", "PARALLEL_BATCHES", "TRUNCATE"]
    given = [
        "EMBEDDING_PRECISON",
        "EMBEDDING_PORT",
        "PORTS",
        *(f"EMBEDDING_{n}" for n in of_callers),
    ]

    assert misspelt(given) == {"EMBEDDING_PRECISON": "EMBEDDING_PRECISION"}


@pytest.mark.parametrize(
    ("limits", "code", "said"),
    [
        ("-Sn 256 && ulimit -Hn 2000", 0, "1792 2000"),
        ("-n 900", 2, "MAX_CONNECTIONS=1024: expected at most 132, or more files (ulimit -Hn)"),
        ("-n 500", 2, "MAX_CONNECTIONS=1024: expected more files (ulimit -Hn)"),
    ],
)
def test_the_connections_have_files_or_are_refused(limits: str, code: int, said: str) -> None:
    program = (
        "import resource\n"
        "from embedding_service.errors import SettingRefused\n"
        "from embedding_service.server import allow_files\n"
        "try:\n"
        "    allow_files(1024)\n"
        "except SettingRefused as error:\n"
        "    print(error)\n"
        "    raise SystemExit(2)\n"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )
    ended = subprocess.run(
        ["bash", "-c", f'ulimit {limits} && exec "$0" -c "$1"', sys.executable, program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (ended.returncode, ended.stderr) == (code, "")
    assert said in ended.stdout


def test_the_readme_says_how_many_files_are_for_other_things() -> None:
    assert f"open {FILES_BESIDE} files more" in (ROOT / "README.md").read_text()


def test_the_process_ends_with_2_and_one_line() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "embedding_service", "--port", "70000"],
        env={name: text for name, text in os.environ.items() if not name.startswith("EMBEDDING")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 2
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("EMBEDDING_PORT='70000': expected a number from 0 to 65535")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({"cpu.max": "100000 100000"}, 1, id="a-quota-of-one-core"),
        pytest.param({"cpu.max": "max 100000"}, None, id="no-quota"),
        pytest.param({"cpu.max": "rubbish"}, None, id="another-format"),
        pytest.param(
            {"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000"}, 1, id="version-1"
        ),
        pytest.param(
            {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"},
            None,
            id="version-1-without-quota",
        ),
        pytest.param({"cpu.max": "max 100000", "../cpu.max": "1000 100000"}, 1, id="the-parents"),
    ],
)
def test_a_quota_bounds_the_cores(
    tmp_path: Path, files: dict[str, str], expected: int | None
) -> None:
    group = tmp_path / "group"
    group.mkdir()
    for name, text in files.items():
        (group / name).write_text(text)

    assert usable_cores([group, tmp_path]) == (expected or usable_cores([]))


def test_a_request_of_as_many_chunks_as_it_may_hold_fits_the_line() -> None:
    settings = read_settings()

    assert settings.max_queue_tokens >= settings.max_texts * 700
