import os
import shutil
from pathlib import Path

from dotenv import dotenv_values

from rba_pipeline import local_env


def test_the_file_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    first = local_env.read(tmp_path)

    again = local_env.read(tmp_path)

    assert again == first
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert len(first["EMBEDDING_API_KEY"]) == 48


def test_what_the_user_wrote_stays(tmp_path: Path) -> None:
    local_env.read(tmp_path)
    path = tmp_path / ".env"
    path.write_text("# mine\nRBA_WEBSERVER_PORT=4000\nMY_OWN=x\n" + path.read_text())
    lines = [line for line in path.read_text().splitlines() if "${RBA_WEBSERVER" not in line]
    path.write_text("\n".join(lines))

    local_env.update(tmp_path, {"EMBEDDING_API_URL": "http://127.0.0.1:8001"})

    assert local_env.read(tmp_path)["RBA_WEBSERVER_PORT"] == "4000"
    assert local_env.read(tmp_path)["EMBEDDING_API_URL"] == "http://127.0.0.1:8001"
    assert path.read_text().startswith("# mine\n")
    assert "MY_OWN=x\n" in path.read_text()


def test_a_missing_address_is_added_with_the_password_that_is_there(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("RBA_DATABASE_URL=postgresql://rba:known@127.0.0.1:1/rba\n")

    values = local_env.read(tmp_path)

    assert values["DAGSTER_POSTGRES_URL"].startswith("postgresql://rba:known@")


def test_the_shell_beats_the_file_for_every_reader(tmp_path: Path) -> None:
    local_env.read(tmp_path)

    os.environ["RBA_SOURCE"] = "/from/the/shell"
    try:
        ours = local_env.read(tmp_path)["RBA_SOURCE"]
        dagsters = dotenv_values(tmp_path / ".env")["RBA_SOURCE"]
    finally:
        del os.environ["RBA_SOURCE"]

    assert ours == dagsters == "/from/the/shell"
    assert local_env.written(tmp_path)["RBA_SOURCE"] != "/from/the/shell"


def test_a_moved_folder_keeps_its_secrets_and_leads_paths_to_the_new_place(tmp_path: Path) -> None:
    old, new = tmp_path / "old place", tmp_path / "new place"
    old.mkdir()
    before = local_env.read(old)

    shutil.move(old, new)
    after = local_env.read(new)

    assert after["DAGSTER_HOME"] == str(new / ".state" / "dagster")
    assert after["RBA_STORE"] == str(new / ".state" / "store")
    assert after["EMBEDDING_API_KEY"] == before["EMBEDDING_API_KEY"]


def test_values_with_quotes_and_braces_come_back_as_they_were(tmp_path: Path) -> None:
    odd = "/a 'b' \"c\" }d\\e #f"
    local_env.read(tmp_path)

    local_env.update(tmp_path, {"RBA_SOURCE": odd})

    assert local_env.read(tmp_path)["RBA_SOURCE"] == odd
