"""The embedding service that the project replaces, for comparison only.

A plain ``def`` endpoint, so requests run in FastAPI's thread pool on one model: fp32 in
transformers, padded to the longest text of the request, one forward pass per request, torch's own
choice of threads, no queue and no limits. ``python -m benchmarks.reference_server --help``.
"""

import argparse
import json
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

_MOST_TOKENS = 8192

Embed = Callable[[Sequence[str]], tuple[list[list[float]], int]]


class EmbeddingsAsked(BaseModel):
    """The body of a request; whatever else it holds is ignored."""

    input: list[str]


class Embedding(BaseModel):
    """One vector of an answer."""

    object: str = "embedding"
    index: int
    embedding: list[float]


class Usage(BaseModel):
    """Tokens of a request, without padding."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    """An answer in the shape of OpenAI's."""

    object: str = "list"
    data: list[Embedding]
    usage: Usage


def main() -> None:
    """Load the model, say that it is ready, serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; default cpu")
    parser.add_argument("--ready-fd", type=int, metavar="N", help="gets a line of JSON: port, pid")
    asked = parser.parse_args()
    app = create_app(load_model(asked.model, asked.device))
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    if asked.ready_fd is not None:
        with open(asked.ready_fd, "w", encoding="ascii") as ready:
            ready.write(json.dumps({"port": listener.getsockname()[1], "pid": os.getpid()}) + "\n")
    config = uvicorn.Config(app, log_level="warning", timeout_keep_alive=120)
    uvicorn.Server(config).run(sockets=[listener])


def create_app(embed: Embed) -> FastAPI:
    """Return an application that answers ``POST /embeddings`` in threads."""
    app = FastAPI()

    @app.post("/embeddings")
    def embeddings(asked: EmbeddingsAsked) -> Embeddings:
        vectors, tokens = embed(asked.input)
        data = [Embedding(index=i, embedding=vector) for i, vector in enumerate(vectors)]
        return Embeddings(data=data, usage=Usage(prompt_tokens=tokens, total_tokens=tokens))

    return app


def load_model(folder: Path, device: str) -> Embed:
    """Return a function from texts to their unit vectors and the number of their tokens.

    Texts are cut at 8,192 tokens or at the model's own limit, whichever is less.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    longest = min(_MOST_TOKENS, tokenizer.model_max_length)

    def embed(texts: Sequence[str]) -> tuple[list[list[float]], int]:
        inputs = tokenizer(
            list(texts), padding="longest", truncation=True, max_length=longest, return_tensors="pt"
        ).to(device)
        mask = inputs["attention_mask"]
        with torch.inference_mode():
            states = model(**inputs).last_hidden_state
            real = mask.unsqueeze(-1).to(states.dtype)
            pooled = (states * real).sum(dim=1) / real.sum(dim=1)
            vectors = normalize(pooled, dim=-1)
        return vectors.tolist(), int(mask.sum())

    # Before the threads: the first call sets padding and truncation on the shared tokenizer.
    embed(["ready"])
    return embed


if __name__ == "__main__":
    main()
