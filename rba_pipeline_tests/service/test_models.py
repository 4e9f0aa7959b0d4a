"""Which folders are loaded, and which are refused before torch is even imported."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from embedding_service.backend.models import find_model
from embedding_service.errors import ModelRefused


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "a-model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "nomic_bert"}))
    (path / "tokenizer.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"weights")
    (path / "modules.json").write_text(
        json.dumps([module("", "Transformer"), module("1", "Pooling")])
    )
    (path / "1").mkdir()
    (path / "1" / "config.json").write_text("{}")
    return path


def module(path: str, kind: str, home: str = "sentence_transformers.models") -> dict[str, str]:
    return {"path": path, "type": f"{home}.{kind}"}


def _pickle_only(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def _pickle_in_a_module(path: Path) -> None:
    (path / "2_Dense").mkdir()
    (path / "2_Dense" / "pytorch_model.bin").write_bytes(b"")


def _pickle_beside_other_weights(path: Path) -> None:
    _pickle_in_a_module(path)
    (path / "2_Dense" / "other.safetensors").write_bytes(b"")


def _module_of_its_own(path: Path) -> None:
    (path / "modules.json").write_text(json.dumps([module("", "Head", home="custom_code")]))


def _remote_code(path: Path) -> None:
    config = {"model_type": "homemade", "auto_map": {"AutoModel": "modeling.Homemade"}}
    (path / "config.json").write_text(json.dumps(config))


@pytest.mark.case("S16")
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(_pickle_only, "only as a pickle", id="pickle-only"),
        pytest.param(_pickle_in_a_module, "2_Dense/pytorch_model.bin", id="pickle-in-a-module"),
        pytest.param(
            _pickle_beside_other_weights, "2_Dense/pytorch_model.bin", id="pickle-loaded-first"
        ),
        pytest.param(_remote_code, "auto_map", id="code-of-its-own"),
        pytest.param(lambda path: (path / "config.json").unlink(), "config.json", id="no-config"),
        pytest.param(
            lambda path: (path / "tokenizer.json").unlink(), "tokenizer.json", id="no-tokenizer"
        ),
        pytest.param(
            lambda path: (path / "model.safetensors").unlink(), "is missing", id="no-weights"
        ),
        pytest.param(
            lambda path: (path / "modules.json").unlink(),
            "modules.json is missing",
            id="no-modules",
        ),
        pytest.param(
            lambda path: (path / "1" / "config.json").unlink(), "1/config.json", id="no-pooling"
        ),
        pytest.param(_module_of_its_own, "custom_code.Head, code of its own", id="own-module"),
        pytest.param(
            lambda path: (path / "config.json").write_text("{"), "not valid JSON", id="torn-config"
        ),
    ],
)
def test_a_folder_that_must_not_be_loaded_is_refused(
    folder: Path, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(folder)

    with pytest.raises(ModelRefused, match=said):
        find_model(str(folder), None)


def test_a_folder_goes_by_its_own_name_wherever_it_lies(folder: Path) -> None:
    found = find_model(str(folder), "v1")

    assert (found.name, found.revision) == ("a-model", "v1")
    assert len(found.weights_sha256) == 64


def test_a_folder_of_the_hubs_cache_goes_by_its_name_on_the_hub(
    folder: Path, tmp_path: Path
) -> None:
    snapshots = tmp_path / "models--nomic-ai--nomic-embed-text-v1.5" / "snapshots"
    snapshots.mkdir(parents=True)
    folder = folder.rename(snapshots / "e5cf08aadaa33385f5990def41f7a23405aec398")

    found = find_model(str(folder), None)

    assert (found.name, found.revision) == ("nomic-ai/nomic-embed-text-v1.5", folder.name)


def test_code_of_its_own_is_ignored_where_the_type_is_native(folder: Path) -> None:
    config = {"model_type": "nomic_bert", "auto_map": {"AutoModel": "theirs--modeling.Bert"}}
    (folder / "config.json").write_text(json.dumps(config))

    assert find_model(str(folder), None).json("config.json") == config


@pytest.mark.parametrize(
    ("file", "said", "same"),
    [
        ("config.json", {"model_type": "nomic_bert", "hidden_act": "relu"}, False),
        ("1/config.json", {"pooling_mode": "cls"}, False),
        ("modules.json", [module("1", "Pooling"), module("", "Transformer")], False),
        ("modules.json", [module("", "Transformer"), module("1", "Dense")], False),
        ("config.json", {"transformers_version": "9", "model_type": "nomic_bert"}, True),
        ("tokenizer_config.json", {"model_max_length": 8}, True),
    ],
)
def test_what_the_modules_are_told_counts_and_who_wrote_it_does_not(
    folder: Path, file: str, said: object, same: bool
) -> None:
    before = find_model(str(folder), None).configuration_sha256
    (folder / file).write_text(json.dumps(said))

    assert (find_model(str(folder), None).configuration_sha256 == before) == same


@pytest.mark.parametrize(("name", "told"), [("retrieval", True), ("query", False), (None, False)])
def test_a_default_prompt_that_goes_before_nothing_is_told(
    folder: Path, name: str | None, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"prompts": {"retrieval": "Represent: "}, "default_prompt_name": name}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config))

    find_model(str(folder), None)

    assert ("'retrieval' is put before no text" in caplog.text) == told


def test_the_packaged_model_has_its_authors_weights() -> None:
    found = find_model("all-MiniLM-L6-v2", None)

    assert found.weights_sha256.startswith("53aa51172d14")


def test_a_model_of_the_hub_needs_a_revision() -> None:
    with pytest.raises(ModelRefused, match="EMBEDDING_MODEL_REVISION"):
        find_model("nomic-ai/nomic-embed-text-v1.5", None)


def test_a_name_that_is_nothing_is_refused_with_what_would_be_something() -> None:
    with pytest.raises(ModelRefused, match="expected all-MiniLM-L6-v2, a folder"):
        find_model("no-such-model", None)
