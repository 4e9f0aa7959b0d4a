"""The cache of prepared models: made once, whole or not at all, and found again."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from embedding_service.backend.models import find_model
from embedding_service.backend.openvino import OpenVinoBackend, read_prepared
from embedding_service.backend.order import Order, read_order
from embedding_service.backend.preparation import prepared_model
from embedding_service.errors import ModelRefused, SettingRefused

pytestmark = pytest.mark.model


def order_of(folder: Path) -> Order:
    return Order(find_model(str(folder), None), "fp32", threads=2, calibration=None)


@pytest.fixture(scope="module")
def cache(nomic_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of this module's own that holds the tiny model."""
    folder = tmp_path_factory.mktemp("cache")
    with ThreadPoolExecutor() as together:
        made = list(
            together.map(lambda _: prepared_model(order_of(nomic_folder), folder), range(2))
        )
    assert made[0] == made[1]
    return folder


def files_of(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_two_that_start_together_make_it_once(cache: Path) -> None:
    assert [path.name for path in cache.iterdir() if path.name.endswith(".partial")] == []
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1


def test_what_is_there_is_not_made_again_even_if_the_cache_cannot_be_written(
    nomic_folder: Path, cache: Path, tmp_path: Path
) -> None:
    baked = tmp_path / "baked"
    shutil.copytree(cache, baked)
    for lock in baked.glob("*.lock"):
        lock.unlink()
        lock.mkdir()
    before = files_of(baked)

    path, _ = prepared_model(order_of(nomic_folder), baked)

    assert path.parent == baked
    assert files_of(baked) == before


@pytest.mark.parametrize("damaged", ["model.bin", "model.xml", "tokenizer.json", "prepared.json"])
def test_a_damaged_model_is_not_taken_for_a_prepared_one(
    nomic_folder: Path, cache: Path, tmp_path: Path, damaged: str
) -> None:
    whole, expected = prepared_model(order_of(nomic_folder), cache)
    copy = shutil.copytree(whole, tmp_path / "copy")
    assert read_prepared(copy) == expected

    (copy / damaged).write_bytes(b"torn")

    assert read_prepared(copy) is None


@pytest.mark.long
def test_a_damaged_model_is_made_again(nomic_folder: Path, cache: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(cache, copy)
    target, expected = prepared_model(order_of(nomic_folder), copy)
    (target / "model.bin").write_bytes(b"torn")

    assert prepared_model(order_of(nomic_folder), copy) == (target, expected)
    assert read_prepared(target) == expected


@pytest.mark.parametrize(("like_fp32", "precision"), [(True, "fp32"), (False, "bf16")])
def test_bf16_shares_the_space_of_fp32_only_where_it_was_seen_to_keep_it(
    nomic_folder: Path, cache: Path, like_fp32: bool, precision: str
) -> None:
    order = order_of(nomic_folder)
    path, prepared = prepared_model(order, cache)
    found = dataclasses.replace(prepared, precision="bf16", like_fp32=like_fp32)

    backend = OpenVinoBackend(order.folder, path, found, threads=1, max_tokens=None)

    assert (backend.precision, backend.space.precision) == ("bf16", precision)


def test_a_cache_that_cannot_be_made_is_named(nomic_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(SettingRefused, match=r"EMBEDDING_CACHE_DIR=.*file.*cannot be written"):
        prepared_model(order_of(nomic_folder), tmp_path / "file")


def test_a_model_that_cannot_be_loaded_leaves_nothing(nomic_folder: Path, tmp_path: Path) -> None:
    model, cache = tmp_path / "model", tmp_path / "cache"
    shutil.copytree(nomic_folder, model)
    (model / "model.safetensors").write_bytes(b"torn")

    with pytest.raises(ModelRefused, match=r"prepared for OpenVINO: .*cannot be loaded"):
        prepared_model(order_of(model), cache)

    assert [path for path in cache.iterdir() if path.is_dir()] == []


def test_an_order_survives_the_way_to_another_process(nomic_folder: Path, tmp_path: Path) -> None:
    order = Order(find_model(str(nomic_folder), "a b"), "int8", 3, tmp_path / "texts of ours.txt")

    assert read_order(order.arguments(tmp_path)) == (order, tmp_path)


def test_the_process_that_prepares_ends_with_its_parent(nomic_folder: Path, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    arguments = order_of(nomic_folder).arguments(tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-m", "embedding_service.backend.conversion_process", *arguments],
        stdin=reading,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(reading)

    os.close(writing)

    try:
        assert child.wait(60) == 1
    finally:
        child.send_signal(signal.SIGKILL)
