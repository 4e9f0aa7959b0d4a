"""Both runtimes and every precision of this machine against sentence-transformers itself."""

import dataclasses
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from embedding_service.app import load_backend
from embedding_service.backend.base import Backend
from embedding_service.backend.models import find_model
from embedding_service.backend.openvino import capabilities
from embedding_service.backend.packing import pass_size, table_width
from embedding_service.engine.deviation import LEAST_COSINE, deviation
from embedding_service.engine.self_test import check_invariance
from embedding_service.errors import ModelRefused, SettingRefused
from embedding_service.settings import Settings, read_settings

pytestmark = pytest.mark.model
LONG = pytest.mark.long

TEXTS = [
    "The Board decided to leave the cash rate unchanged.",
    "Inflation",
    "Wages growth had been subdued. " * 9,
    "naïve — 4¼ per cent  通貨\ttable | of | figures 67.2",
    "Members discussed household debt, and its distribution. " * 4,
]
EXACT = [
    pytest.param("torch", "all-MiniLM-L6-v2", id="torch-minilm"),
    pytest.param("openvino", "all-MiniLM-L6-v2", id="openvino-minilm"),
    pytest.param("torch", "nomic", id="torch-nomic"),
    pytest.param("openvino", "nomic", id="openvino-nomic"),
]


class Models:
    """Backends, each loaded once."""

    def __init__(self, folders: dict[str, Path], cache: Path) -> None:
        self._folders = folders
        self._cache = cache
        self._loaded: dict[Settings, Backend] = {}

    def settings(self, model: str, runtime: str, precision: str = "fp32", **more: Any) -> Settings:
        return read_settings(
            model=str(self._folders.get(model, model)),
            runtime=runtime,
            precision=precision,
            cache_dir=self._cache,
            threads=2,
            **more,
        )

    def load(self, model: str, runtime: str, precision: str = "fp32", **more: Any) -> Backend:
        settings = self.settings(model, runtime, precision, **more)
        key = settings.model_dump_json()
        if key not in self._loaded:
            self._loaded[key] = load_backend(settings)
        return self._loaded[key]

    def path(self, model: str) -> Path:
        return self._folders.get(model) or find_model(model, None).path


@pytest.fixture(scope="module")
def models(nomic_folder: Path, prepared_models: Path) -> Models:
    return Models({"nomic": nomic_folder}, prepared_models)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator["TinyModels"]:
    """Tiny models, to be prepared in this process as well."""
    with pytest.MonkeyPatch.context() as environment:
        # As for the process that prepares: nothing is reported to the library's maker, which would
        # also take a fork of this process each time.
        environment.setenv("CI", "true")
        yield TinyModels(tmp_path_factory.mktemp("tiny"))


class TinyModels:
    """Tiny models as ``make_model`` makes them, and what the library says of TEXTS, each once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[tuple[str, str], tuple[Path, Any]] = {}

    def made(self, model_type: str, pooling: str) -> tuple[Path, Any]:
        """Return the folder of a model that nobody may change, and the library's vectors."""
        key = (model_type, pooling)
        if key not in self._made:
            path = self._folder / f"{model_type}-{pooling}"
            make_model(model_type, path, pooling=pooling)
            self._made[key] = path, by_the_library(path, "")
        return self._made[key]


def bf16_or_refused(models: Models, model: str, runtime: str) -> Backend | None:
    """Return the model in bf16; None on a CPU without the instructions, having seen it refused."""
    if runtime == "torch" or "BF16" in capabilities():
        return models.load(model, runtime, "bf16")
    with pytest.raises(SettingRefused, match="=bf16: openvino on this cpu computes in fp32"):
        models.load(model, runtime, "bf16")
    return None


def by_the_library(path: Path, prompt: str) -> Any:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(path), device="cpu")
    return model.encode(TEXTS, prompt=prompt, normalize_embeddings=True)


def cosines(one: Any, other: Any) -> Any:
    return (one * other).sum(axis=1)


@pytest.mark.parametrize(("runtime", "model"), EXACT)
@pytest.mark.parametrize(
    "input_type", ["document", *(pytest.param(name, marks=LONG) for name in ("query", "raw"))]
)
def test_fp32_gives_the_vectors_of_sentence_transformers(
    models: Models, runtime: str, model: str, input_type: Any
) -> None:
    ours = models.load(model, runtime)

    vectors = ours.encode(ours.tokenise(TEXTS, input_type))

    theirs = by_the_library(models.path(model), ours.prompts.of(input_type))
    assert vectors.dtype == np.float32
    assert np.abs(vectors - theirs).max() <= 1e-5


@pytest.mark.parametrize(
    "model", [pytest.param("all-MiniLM-L6-v2", marks=pytest.mark.long), "nomic"]
)
def test_bf16_turns_vectors_little(models: Models, model: str) -> None:
    if (rounded := bf16_or_refused(models, model, "openvino")) is None:
        return
    exact = models.load(model, "openvino")
    ids = exact.tokenise(TEXTS, "document")

    found = cosines(exact.encode(ids), rounded.encode(ids))

    assert found.min() >= 0.9995


@pytest.mark.long
def test_int8_turns_vectors_little(models: Models) -> None:
    exact, rounded = models.load("nomic", "openvino"), models.load("nomic", "openvino", "int8")
    ids = exact.tokenise(TEXTS, "document")

    found = cosines(exact.encode(ids), rounded.encode(ids))

    assert found.min() >= 0.98


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_bf16_shares_the_space_that_it_was_seen_to_keep(models: Models, runtime: str) -> None:
    if (rounded := bf16_or_refused(models, "nomic", runtime)) is None:
        return
    exact = models.load("nomic", "torch")

    assert rounded.precision == "bf16"
    assert rounded.space == exact.space


def test_int8_is_a_space_of_its_own_weights(models: Models) -> None:
    exact, rounded = models.load("nomic", "openvino"), models.load("nomic", "openvino", "int8")

    assert rounded.space.precision == "int8"
    assert rounded.space.weights_sha256 != exact.space.weights_sha256
    assert (
        dataclasses.replace(
            rounded.space, precision="fp32", weights_sha256=exact.space.weights_sha256
        )
        == exact.space
    )


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    texts = [f"{n} sheep were sold at the yards, {n * 7} cents a head." for n in range(20)]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    return tmp_path / "texts.txt"


@pytest.mark.long
def test_another_calibration_is_another_space(models: Models, calibration: Path) -> None:
    usual = models.load("nomic", "openvino", "int8")

    other = models.load("nomic", "openvino", "int8", calibration=calibration)

    assert other.space.weights_sha256 != usual.space.weights_sha256
    assert other.space.id != usual.space.id


@pytest.mark.parametrize(("model", "longest"), [("all-MiniLM-L6-v2", 256), ("nomic", 512)])
def test_calibration_has_no_text_that_the_model_does_not_take(
    models: Models, model: str, longest: int
) -> None:
    from embedding_service.backend.conversion import calibration_ids

    backend: Any = models.load(model, "torch")

    ids = calibration_ids(backend, ["the cash rate " * 300] * 12)

    assert [len(text) for text in ids] == [longest] * 12


def test_too_few_texts_to_calibrate_with_are_refused(models: Models, tmp_path: Path) -> None:
    few = tmp_path / "few.txt"
    few.write_text("one\n\ntwo\n")

    with pytest.raises(SettingRefused, match=r"few\.txt: expected at least 10 texts.* got 2"):
        models.load("nomic", "openvino", "int8", calibration=few)


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_long_texts_take_a_path_of_their_own(models: Models, runtime: str) -> None:
    """Up to 2,048 tokens vectors are those of the model as it is; the path beyond is constant."""
    native = models.load("nomic", runtime)
    long = models.load("nomic", runtime, max_seq_length=8192)
    (ids,) = long.tokenise(["the cash rate " * 900], "document")
    alone = long.encode([ids])

    assert (long.native_tokens, long.max_tokens) == (2048, 8192)
    assert np.abs(long.encode([ids[:2048]]) - native.encode([ids[:2048]])).max() <= 1e-6
    assert np.abs(long.encode([ids, np.tile(ids, 3)])[0] - alone[0]).max() <= 1e-5
    # The wrong path shows in a vector, by the contract's bound of every precision.
    moved = deviation(long.encode([ids[:2049]]), long.encode([ids[:2048]]))
    assert moved.cosine < LEAST_COSINE
    assert long.space.id != native.space.id


def test_another_activation_is_another_space(models: Models, tmp_path: Path) -> None:
    for name, activation in (("usual", "gelu"), ("other", "relu")):
        make_model("bert", tmp_path / name, hidden_act=activation)
    usual, other = (models.load(str(tmp_path / name), "torch") for name in ("usual", "other"))

    assert usual.space.weights_sha256 == other.space.weights_sha256
    assert usual.space.id != other.space.id


def test_a_lower_usual_limit_moves_no_text_to_the_path_for_long_ones(
    models: Models, tmp_path: Path
) -> None:
    make_model("nomic_bert", tmp_path, initializer_range=0.2)
    text = "the cash rate " * 300

    lifted = models.load(str(tmp_path), "torch", max_seq_length=2048)

    vectors = lifted.encode(lifted.tokenise([text], "raw"))
    assert models.load(str(tmp_path), "torch").max_tokens == 128
    assert lifted.native_tokens == 2048
    assert np.abs(vectors - whole_by_the_library(tmp_path, text)).max() <= 1e-5


def test_a_long_text_has_the_librarys_vector_under_stretched_frequencies(
    models: Models, tmp_path: Path
) -> None:
    make_model("nomic_bert", tmp_path, initializer_range=0.2)
    ours = models.load(str(tmp_path), "torch", max_seq_length=8192)
    text = "the cash rate was unchanged " * 500
    stretched = [(1000 * 7 ** (32 / 30)) ** (-i / 16) for i in range(16)]

    vectors = ours.encode(ours.tokenise([text], "raw"))

    assert np.abs(vectors - whole_by_the_library(tmp_path, text, stretched)).max() <= 1e-5
    assert np.abs(vectors - whole_by_the_library(tmp_path, text)).max() > 1e-3


def whole_by_the_library(path: Path, text: str, frequencies: list[float] | None = None) -> Any:
    import torch
    from sentence_transformers import SentenceTransformer

    model: Any = SentenceTransformer(str(path), device="cpu")
    model.max_seq_length = 8192
    if frequencies is not None:
        model[0].auto_model.rotary_emb.inv_freq = torch.tensor(frequencies)
    return model.encode([text], prompt="", normalize_embeddings=True)


def test_both_runtimes_agree_on_long_texts(models: Models) -> None:
    torch, openvino = (
        models.load("nomic", runtime, max_seq_length=8192) for runtime in ("torch", "openvino")
    )
    (ids,) = torch.tokenise(["the cash rate " * 900], "document")

    assert torch.space.id == openvino.space.id
    assert np.abs(torch.encode([ids]) - openvino.encode([ids])).max() <= 1e-5


def test_truncation_equals_that_of_sentence_transformers(models: Models) -> None:
    from sentence_transformers import SentenceTransformer

    ours = models.load("all-MiniLM-L6-v2", "openvino")
    text = "The economy had grown a little more slowly than expected. " * 60
    model = SentenceTransformer(str(models.path("all-MiniLM-L6-v2")), device="cpu")

    ids = ours.shorten(ours.tokenise([text], "raw")[0])

    assert len(ids) == 256
    assert np.abs(ours.encode([ids])[0] - model.encode(text)).max() <= 1e-5


def test_each_model_takes_what_it_was_made_for(models: Models) -> None:
    assert models.load("all-MiniLM-L6-v2", "openvino").max_tokens == 256
    assert models.load("nomic", "openvino").max_tokens == 2048


@pytest.mark.parametrize(
    ("model", "wanted", "longest"), [("all-MiniLM-L6-v2", 257, 256), ("nomic", 8192, 8192)]
)
def test_the_limit_may_be_lowered_but_not_raised_beyond_what_the_model_takes(
    models: Models, model: str, wanted: int, longest: int
) -> None:
    assert models.load(model, "openvino", max_seq_length=64).max_tokens == 64

    if wanted > longest:
        with pytest.raises(ModelRefused, match=rf"EMBEDDING_MAX_SEQ_LENGTH={wanted}.*to {longest}"):
            models.load(model, "openvino", max_seq_length=wanted)


def test_a_limit_of_length_is_part_of_the_space(models: Models) -> None:
    shorter = models.load("nomic", "openvino", max_seq_length=512)

    assert shorter.space.id != models.load("nomic", "openvino").space.id


def test_only_a_model_whose_folder_says_so_has_shorter_vectors(models: Models) -> None:
    nomic = models.load("nomic", "openvino").matryoshka

    assert models.load("all-MiniLM-L6-v2", "openvino").matryoshka is None
    assert nomic is not None
    assert nomic.dimensions == (64, 128)
    assert nomic.layer_norm_first


def test_the_tokenizer_handed_out_neither_cuts_nor_pads(models: Models) -> None:
    backend = models.load("all-MiniLM-L6-v2", "openvino")
    tokenizer = Tokenizer.from_str(backend.tokenizer_json.decode())

    assert tokenizer.truncation is None
    assert tokenizer.padding is None
    assert len(tokenizer.encode("word " * 1000).ids) == 1002


def test_the_library_warns_through_our_log(models: Models) -> None:
    models.load("nomic", "torch")
    library = logging.getLogger("transformers")

    assert library.propagate
    # Of its own it has one that writes to stderr.
    assert logging.StreamHandler not in map(type, library.handlers)


def test_an_absent_accelerator_is_refused(models: Models) -> None:
    import torch

    absent = next(d for d in ("mps", "cuda") if not getattr(torch, d).is_available())

    with pytest.raises(SettingRefused, match=f"EMBEDDING_DEVICE={absent}: not on this machine"):
        models.load("nomic", "torch", device=absent)


def test_a_file_that_is_no_model_is_refused(
    models: Models, nomic_folder: Path, tmp_path: Path
) -> None:
    """By OpenVINO's way in ``test_preparation``."""
    torn = tmp_path / "torn"
    shutil.copytree(nomic_folder, torn)
    (torn / "model.safetensors").write_bytes(b"torn")

    with pytest.raises(ModelRefused, match="cannot be loaded"):
        models.load(str(torn), "torch")


@pytest.mark.parametrize(
    "model_type",
    [
        "bert",
        "distilbert",
        *(pytest.param(name, marks=LONG) for name in ("mpnet", "roberta", "xlm-roberta")),
    ],
)
@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_every_type_that_is_let_in_has_the_librarys_vectors_whatever_the_batch(
    models: Models, tiny: TinyModels, model_type: str, runtime: str
) -> None:
    folder, theirs = tiny.made(model_type, "mean")
    backend = loaded(models, folder, runtime)
    longest = np.resize(backend.tokenise(["the cash rate"], "raw")[0], backend.max_tokens)

    check_invariance(backend)

    assert np.isfinite(backend.encode([longest])).all()
    found = backend.encode(backend.tokenise(TEXTS, "raw"))
    assert np.abs(found - theirs).max() <= 1e-5


@pytest.mark.parametrize(
    "pooling",
    ["cls", "lasttoken", *(pytest.param(name, marks=LONG) for name in ("max", "weightedmean"))],
)
@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_every_pooling_has_the_librarys_vectors(
    models: Models, tiny: TinyModels, pooling: str, runtime: str
) -> None:
    folder, theirs = tiny.made("bert", pooling)
    backend = loaded(models, folder, runtime)

    found = backend.encode(backend.tokenise(TEXTS, "raw"))

    assert np.abs(found - theirs).max() <= 1e-5


def test_a_step_that_we_would_not_compute_as_the_library_does_is_refused(
    models: Models, tmp_path: Path
) -> None:
    from sentence_transformers.sentence_transformer.modules import WordWeights

    make_model("bert", tmp_path, last=WordWeights([], {}))

    with pytest.raises(ModelRefused, match="module WordWeights; served are only Pooling, Dense"):
        models.load(str(tmp_path), "torch")


def test_what_the_library_computes_otherwise_is_refused(models: Models, tmp_path: Path) -> None:
    make_model("bert", tmp_path, pooling="cls", initializer_range=0.2)
    change_config(tmp_path, is_decoder=True)

    with pytest.raises(ModelRefused, match=r"cosine of 0\.\d+ to those of sentence-transformers"):
        models.load(str(tmp_path), "torch")


def test_scaled_rotary_positions_are_refused(models: Models, tmp_path: Path) -> None:
    shutil.copytree(models.path("nomic"), tmp_path, dirs_exist_ok=True)
    scaled = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000.0}
    change_config(tmp_path, rope_parameters=scaled)

    with pytest.raises(ModelRefused, match="rope_type is 'linear'; served is only 'default'"):
        models.load(str(tmp_path), "torch")


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_another_layer_than_the_last_is_refused(models: Models, tmp_path: Path) -> None:
    make_model("bert", tmp_path)
    path = next(tmp_path.glob("**/sentence_bert_config.json"))
    config = json.loads(path.read_text())
    config["modality_config"]["text"]["method_output_name"] = ["hidden_states", -2]
    path.write_text(json.dumps(config))

    with pytest.raises(ModelRefused, match="no transformer that gives its last layer"):
        models.load(str(tmp_path), "torch")


def test_a_pass_computes_what_is_said_of_it(models: Models) -> None:
    backend = models.load("all-MiniLM-L6-v2", "torch")
    ids = backend.tokenise(TEXTS, "raw")

    given = backend.passed(ids)  # type: ignore[attr-defined]

    lengths = [len(text) for text in ids]
    work = backend.work(lengths)
    assert len(given["input_ids"]) == work.tokens == pass_size(sum(lengths)) > sum(lengths)
    texts, longest = given["table"].shape
    assert texts * longest**2 == work.pairs
    assert longest == table_width(max(lengths))


def test_a_device_without_memory_is_told_apart_from_a_model_that_fails(models: Models) -> None:
    import torch

    backend = models.load("nomic", "torch")
    ids = backend.tokenise(TEXTS, "raw")

    def spent(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    hook = backend._body.register_forward_pre_hook(spent)  # type: ignore[attr-defined]
    with pytest.raises(MemoryError, match="cpu: out of memory"):
        backend.encode(ids)
    hook.remove()

    assert len(backend.encode(ids)) == len(ids)


def loaded(models: Models, folder: Path, runtime: str) -> Backend:
    return converted_here(folder) if runtime == "openvino" else models.load(str(folder), runtime)


def converted_here(folder: Path) -> Backend:
    """Prepare and load ``folder`` in this process, which has torch already."""
    from embedding_service.backend.conversion import convert
    from embedding_service.backend.openvino import OpenVinoBackend, read_prepared
    from embedding_service.backend.order import Order

    found, out = find_model(str(folder), None), folder / "prepared"
    out.mkdir()
    convert(Order(found, "fp32", threads=2, calibration=None), out)
    prepared = read_prepared(out)
    assert prepared is not None
    return OpenVinoBackend(found, out, prepared, threads=2, max_tokens=None)


def make_model(
    model_type: str, out: Path, *, pooling: str = "mean", last: Any | None = None, **config_of: Any
) -> None:
    """Write a tiny model of ``model_type`` with random weights, in the library's layout."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import CONFIG_MAPPING, AutoModel, AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(find_model("all-MiniLM-L6-v2", None).path)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CONFIG_MAPPING[model_type](
        **(sizes if model_type != "distilbert" else {"dim": 64, "n_layers": 2, "n_heads": 2}),
        vocab_size=len(tokenizer),
        # Where it is not 0, a model that counts positions from it begins elsewhere.
        pad_token_id=1 if "roberta" in model_type else tokenizer.pad_token_id,
        max_position_embeddings=128,
        **config_of,
    )
    tokenizer.model_max_length = 512
    bare = out / "bare"
    AutoModel.from_config(config).save_pretrained(bare)
    tokenizer.save_pretrained(bare)
    steps = [Transformer(str(bare), max_seq_length=512), Pooling(64, pooling_mode=pooling)]
    if last is not None:
        steps.append(last)
    SentenceTransformer(modules=steps, device="cpu").save(str(out), create_model_card=False)
    for path in bare.iterdir():
        path.unlink()
    bare.rmdir()
