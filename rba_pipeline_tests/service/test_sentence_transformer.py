"""The torch backend against sentence-transformers itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from embedding_service.backend.models import find_model
from embedding_service.errors import ModelRefused

pytestmark = pytest.mark.model

TEXTS = [
    "The Board decided to leave the cash rate unchanged.",
    "Inflation",
    "Wages growth had been subdued. " * 9,
    "naïve — 4¼ per cent  通貨\ttable | of | figures 67.2",
    "Members discussed household debt, and its distribution. " * 4,
]


def load(name: str, **options: Any) -> Any:
    from embedding_service.backend.sentence_transformer import SentenceTransformerBackend

    usual: dict[str, Any] = {"device": "cpu", "threads": 2, "max_tokens": None}
    return SentenceTransformerBackend(find_model(name, None), **(usual | options))


@pytest.fixture(scope="module")
def minilm_backend() -> Any:
    return load("all-MiniLM-L6-v2")


@pytest.fixture(scope="module")
def nomic_backend(nomic_folder: Path) -> Any:
    return load(str(nomic_folder))


def by_the_library(path: Path, prompt: str) -> Any:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(path), device="cpu")
    return model.encode(TEXTS, prompt=prompt, normalize_embeddings=True)


@pytest.mark.parametrize(
    ("backend", "input_type", "prompt"),
    [
        ("minilm_backend", "document", ""),
        ("minilm_backend", "query", ""),
        ("nomic_backend", "document", "search_document: "),
        ("nomic_backend", "query", "search_query: "),
        ("nomic_backend", "raw", ""),
    ],
)
def test_vectors_equal_those_of_sentence_transformers(
    request: pytest.FixtureRequest, nomic_folder: Path, backend: str, input_type: Any, prompt: str
) -> None:
    ours = request.getfixturevalue(backend)
    name = "all-MiniLM-L6-v2" if backend == "minilm_backend" else str(nomic_folder)

    vectors = ours.encode(ours.tokenise(TEXTS, input_type))

    theirs = by_the_library(find_model(name, None).path, prompt)
    assert vectors.dtype == np.float32
    assert np.abs(vectors - theirs).max() <= 1e-5


def test_truncation_equals_that_of_sentence_transformers(minilm_backend: Any) -> None:
    from sentence_transformers import SentenceTransformer

    text = "The economy had grown a little more slowly than expected. " * 60
    model = SentenceTransformer(str(find_model("all-MiniLM-L6-v2", None).path), device="cpu")

    ids = minilm_backend.shorten(minilm_backend.tokenise([text], "raw")[0])

    assert len(ids) == 256
    assert np.abs(minilm_backend.encode([ids])[0] - model.encode(text)).max() <= 1e-5


def test_each_model_takes_what_it_was_made_for(minilm_backend: Any, nomic_backend: Any) -> None:
    assert minilm_backend.max_tokens == 256
    assert nomic_backend.max_tokens == 2048


def test_the_limit_may_be_lowered_but_not_raised(nomic_folder: Path) -> None:
    assert load(str(nomic_folder), max_tokens=512).max_tokens == 512

    with pytest.raises(ModelRefused, match=r"EMBEDDING_MAX_SEQ_LENGTH=257.*8 to 256"):
        load("all-MiniLM-L6-v2", max_tokens=257)


def test_every_ingredient_changes_the_space(nomic_folder: Path, nomic_backend: Any) -> None:
    shorter = load(str(nomic_folder), max_tokens=512)

    assert shorter.space.id != nomic_backend.space.id
    assert load(str(nomic_folder)).space.id == nomic_backend.space.id


def test_only_a_model_whose_folder_says_so_has_shorter_vectors(
    minilm_backend: Any, nomic_backend: Any
) -> None:
    assert minilm_backend.matryoshka is None
    assert nomic_backend.matryoshka.dimensions == (64, 128)
    assert nomic_backend.matryoshka.layer_norm_first


def test_the_tokenizer_handed_out_neither_cuts_nor_pads(minilm_backend: Any) -> None:
    tokenizer = Tokenizer.from_str(minilm_backend.tokenizer_json.decode())

    assert tokenizer.truncation is None
    assert tokenizer.padding is None
    assert len(tokenizer.encode("word " * 1000).ids) == 1002


def test_an_absent_accelerator_is_refused(nomic_folder: Path) -> None:
    import torch

    absent = next(d for d in ("mps", "cuda") if not getattr(torch, d).is_available())

    with pytest.raises(ModelRefused, match=f"EMBEDDING_DEVICE={absent}: not on this machine"):
        load(str(nomic_folder), device=absent)


def test_a_file_that_is_no_model_is_refused(nomic_folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((nomic_folder / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"torn")

    with pytest.raises(ModelRefused, match="cannot be loaded"):
        load(str(tmp_path))
