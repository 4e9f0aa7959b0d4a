"""How long chunks are: what was asked for, within what the model takes."""

import pytest

from rba_pipeline.core.embeddings import Space
from rba_pipeline.core.errors import BadSetting
from rba_pipeline.resources.chunking import Chunking
from rba_pipeline.resources.service_answers import ServiceInfo


def info(max_tokens: int, *, prompt: str = "", tokenizer: str = "t") -> ServiceInfo:
    return ServiceInfo(
        space=Space("a" * 32, "oracle", 8, {}),
        device="cpu",
        cores=2,
        max_tokens=max_tokens,
        max_texts=64,
        server_batch_size=32,
        max_queue_tokens=524_288,
        document_prompt=prompt,
        tokenizer_sha256=tokenizer,
    )


@pytest.mark.parametrize(
    ("asked", "max_tokens", "expected"),
    [
        pytest.param((512, 64), 8192, (512, 64), id="as-asked"),
        pytest.param((512, 64), 512, (512, 64), id="just-what-the-model-takes"),
        pytest.param((512, 64), 256, (256, 64), id="the-model-takes-less"),
        pytest.param((512, 200), 256, (256, 128), id="overlap-at-most-half"),
        pytest.param((32, 0), 256, (32, 0), id="smallest-without-overlap"),
        pytest.param((8192, 4096), 8192, (8192, 4096), id="largest"),
    ],
)
def test_a_chunk_is_never_longer_than_the_model_takes(
    asked: tuple[int, int], max_tokens: int, expected: tuple[int, int]
) -> None:
    settings = Chunking(chunk_tokens=asked[0], chunk_overlap=asked[1]).settings(info(max_tokens))

    assert (settings.size, settings.overlap) == expected


def test_a_limit_of_the_model_and_the_same_size_asked_for_cut_alike() -> None:
    limited = Chunking(chunk_tokens=512).settings(info(256))
    asked = Chunking(chunk_tokens=256).settings(info(8192))

    assert limited.chunking_id == asked.chunking_id


def test_another_prompt_or_tokenizer_is_another_chunking() -> None:
    chunking = Chunking()

    ids = {
        chunking.settings(about).chunking_id
        for about in (info(512), info(512, prompt="search_document: "), info(512, tokenizer="u"))
    }

    assert len(ids) == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"chunk_tokens": 31}, "allowed is 32 to 8192 .*RBA_CHUNK_TOKENS", id="small"),
        pytest.param({"chunk_tokens": 8193}, "chunk_tokens=8193", id="large"),
        pytest.param(
            {"chunk_overlap": -1}, "allowed is 0 to 256 .*RBA_CHUNK_OVERLAP", id="negative"
        ),
        pytest.param({"chunk_tokens": 100, "chunk_overlap": 51}, "0 to 50", id="over-half"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_range(
    values: dict[str, int], message: str
) -> None:
    with pytest.raises(BadSetting, match=message):
        Chunking.check(values)
    with pytest.raises(BadSetting, match=message):
        Chunking(**values).settings(info(8192))


@pytest.mark.parametrize("value", [1.5, "512", None])
def test_a_value_that_is_no_whole_number_is_refused(value: object) -> None:
    with pytest.raises(BadSetting, match="whole numbers"):
        Chunking.check({"chunk_tokens": value})
