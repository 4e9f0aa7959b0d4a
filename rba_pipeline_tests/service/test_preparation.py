"""The cache of prepared models: made once, whole or not at all, and found again."""

import dataclasses
import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import openvino
import pytest

from embedding_service.backend.models import find_model
from embedding_service.backend.openvino import OpenVinoBackend, read_prepared
from embedding_service.backend.order import Order, read_order
from embedding_service.backend.preparation import cache_key, library_versions, prepared_model
from embedding_service.errors import ModelRefused, SettingRefused
from rba_pipeline_tests.service_process import ServiceProcess

pytestmark = pytest.mark.model


def order_of(folder: Path) -> Order:
    return Order(find_model(str(folder), None), "fp32", threads=2, calibration=None)


@pytest.fixture(scope="module")
def started_together(
    nomic_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A cache of this module's own, and all that two services said which found it empty."""
    folder = tmp_path_factory.mktemp("cache")
    env = {
        "EMBEDDING_MODEL": str(nomic_folder),
        "EMBEDDING_RUNTIME": "openvino",
        "EMBEDDING_PRECISION": "fp32",
        "EMBEDDING_CACHE_DIR": str(folder),
    }
    with ExitStack() as ending, ThreadPoolExecutor() as together:
        services = [ending.push(ServiceProcess(env)) for _ in range(2)]
        list(together.map(ServiceProcess.start, services))
        return folder, "".join(service.log for service in services)


@pytest.fixture(scope="module")
def cache(started_together: tuple[Path, str]) -> Path:
    """A cache that holds the tiny model."""
    return started_together[0]


def files_of(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_two_that_start_together_make_it_once(started_together: tuple[Path, str]) -> None:
    cache, said = started_together

    assert said.count("for OpenVINO, once") == 1
    assert said.count("waiting for another process that prepares tiny-nomic") == 1
    assert [path.name for path in cache.iterdir() if path.name.endswith(".partial")] == []
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1


@pytest.mark.parametrize("library", ["openvino", "nncf", "torch", "transformers"])
def test_what_another_version_of_a_library_made_is_not_taken(
    nomic_folder: Path, cache: Path, library: str
) -> None:
    order, installed = order_of(nomic_folder), library_versions()
    path, _ = prepared_model(order, cache)

    of_another = cache_key(order, installed | {library: "0.1"})

    assert installed[library] == importlib.metadata.version(library)
    assert path.name.endswith(cache_key(order, installed))
    assert not path.name.endswith(of_another)


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


@pytest.mark.long
def test_int8_is_the_same_space_whenever_and_with_how_many_threads_it_is_made(
    nomic_folder: Path, tmp_path: Path
) -> None:
    usual = dataclasses.replace(order_of(nomic_folder), precision="int8")

    _, alone = prepared_model(dataclasses.replace(usual, threads=1), tmp_path / "alone")
    _, again = prepared_model(usual, tmp_path / "again")

    assert again.weights_sha256 == alone.weights_sha256


@pytest.mark.parametrize(("like_fp32", "precision"), [(True, "fp32"), (False, "bf16")])
def test_bf16_shares_the_space_of_fp32_only_where_it_was_seen_to_keep_it(
    nomic_folder: Path, cache: Path, like_fp32: bool, precision: str
) -> None:
    order = order_of(nomic_folder)
    path, prepared = prepared_model(order, cache)
    found = dataclasses.replace(prepared, precision="bf16", like_fp32=like_fp32)

    backend = OpenVinoBackend(order.folder, path, found, threads=1, max_tokens=None)

    assert (backend.precision, backend.space.precision) == ("bf16", precision)


def test_no_matrix_is_left_as_openvino_would_group_it(nomic_folder: Path, cache: Path) -> None:
    """With AMX a group of them ends the process on one thread; seen there by the test above."""
    path, _ = prepared_model(order_of(nomic_folder), cache)
    graph = openvino.Core().read_model(path / "model.xml")

    products = [each for each in graph.get_ops() if each.get_type_name() == "MatMul"]
    with_weights = [each for each in products if not each.input_value(1).get_node().inputs()]
    # Two layers of four matrices of attention and three behind it.
    assert len(with_weights) == 14
    assert not any(each.get_attributes()["transpose_b"] for each in with_weights)


def test_a_cache_that_cannot_be_made_is_named(nomic_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(SettingRefused, match=r"EMBEDDING_CACHE_DIR=.*file.*cannot be written"):
        prepared_model(order_of(nomic_folder), tmp_path / "file")


@pytest.mark.long
def test_a_model_that_cannot_be_loaded_leaves_nothing(nomic_folder: Path, tmp_path: Path) -> None:
    model, cache = tmp_path / "model", tmp_path / "cache"
    shutil.copytree(nomic_folder, model)
    (model / "model.safetensors").write_bytes(b"torn")

    with pytest.raises(ModelRefused, match=r"prepared for OpenVINO: .*cannot be loaded"):
        prepared_model(order_of(model), cache)

    assert [path for path in cache.iterdir() if path.is_dir()] == []


@pytest.mark.long
def test_a_full_disk_is_told_as_one(nomic_folder: Path, tmp_path: Path) -> None:
    # A limit on what a file may hold, 1 MiB, stands for the end of the disk.
    program = 'ulimit -f 1024 && exec "$0" -m embedding_service.backend.conversion_process "$@"'
    child = subprocess.Popen(
        ["bash", "-c", program, sys.executable, *order_of(nomic_folder).arguments(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with child:
        said = child.stdout.read() if child.stdout else ""

        assert child.wait(60) == 1
    assert "cannot be written: is the disk of EMBEDDING_CACHE_DIR full?" in said


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
