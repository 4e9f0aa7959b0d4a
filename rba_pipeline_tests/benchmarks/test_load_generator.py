"""The closed loop: everything is sent, refusals come again, failures are not hidden."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.load_generator import LoadFailed, Setting, send_all


class Stub(ThreadingHTTPServer):
    """Answers with one vector per text, after the statuses in ``before``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.before: list[tuple[int, dict[str, str]]] = []
        self.missing = 0
        self.requests: list[list[str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Stub

    def do_POST(self) -> None:
        texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"]
        self.server.requests.append(texts)
        if self.server.before:
            return self._answer(*self.server.before.pop(0), b"{}")
        data = [{"embedding": [1.0]}] * (len(texts) - self.server.missing)
        usage = {"prompt_tokens": 3 * len(texts)}
        body = json.dumps({"data": data, "usage": usage}).encode()
        return self._answer(200, {"X-Compute-Seconds": "0.25"}, body)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_every_text_is_sent_once_and_the_last_request_may_be_smaller(stub: Stub) -> None:
    texts = [f"text {i}" for i in range(10)]

    figures = send_all(stub.url, texts, Setting(4, 2))

    assert sorted(len(request) for request in stub.requests) == [2, 4, 4]
    assert sorted(text for request in stub.requests for text in request) == texts
    assert (figures.texts, figures.tokens, figures.refusals) == (10, 30, 0)
    assert figures.compute_s == (0.25,) * 3
    assert len(figures.request_s) == 3


def test_a_refused_request_comes_again_and_is_counted(stub: Stub) -> None:
    stub.before = [(429, {"Retry-After": "0"}), (503, {"Retry-After": "0"})]

    figures = send_all(stub.url, ["a"], Setting(1, 1))

    assert figures.refusals == 2
    assert stub.requests == [["a"]] * 3


@pytest.mark.parametrize(
    ("status", "said"),
    [
        pytest.param(429, "without Retry-After", id="refusal-without-a-time"),
        pytest.param(500, "500", id="error"),
    ],
)
def test_a_bad_answer_ends_the_load(stub: Stub, status: int, said: str) -> None:
    stub.before = [(status, {})]

    with pytest.raises(LoadFailed, match=said):
        send_all(stub.url, ["a"], Setting(1, 1))


def test_a_vector_too_few_is_a_failure(stub: Stub) -> None:
    stub.missing = 1

    with pytest.raises(LoadFailed, match="1 vectors for 2 texts"):
        send_all(stub.url, ["a", "b"], Setting(2, 1))


def test_a_load_that_takes_too_long_is_a_failure(stub: Stub) -> None:
    with pytest.raises(LoadFailed, match="in time"):
        send_all(stub.url, ["a"], Setting(1, 1), timeout_s=0)


def test_a_server_that_is_gone_is_a_failure() -> None:
    with pytest.raises(LoadFailed, match="Connection"):
        send_all("http://127.0.0.1:9", ["a"], Setting(1, 1))


@pytest.mark.parametrize("text", ["4", "4x", "x2", "0x2", "4x0", "4x2x1", "-1x2"])
def test_a_setting_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        Setting.parse(text)


def test_a_setting_reads_as_it_is_written() -> None:
    assert str(Setting.parse("16x4")) == "16x4"
