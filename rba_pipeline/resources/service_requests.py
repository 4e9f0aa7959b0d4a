"""Single requests to an embedding service: each has a deadline, and what went wrong a name."""

import threading

from rba_pipeline.core.errors import ContractBroken, RequestTimedOut, ServiceUnavailable
from rba_pipeline.resources.deadline_http import (
    ConnectionFailed,
    DeadlinePassed,
    DeadlineSession,
    Reply,
    ReplyRefused,
)
from rba_pipeline.resources.service_answers import refusal_of

_EMBEDDINGS = "/embeddings"
_ENDED = "the run has ended: no further request is sent"


class ServiceRequests:
    """Asks once, whatever comes of it. Safe to use from many threads."""

    def __init__(self, *, key: str, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._http = DeadlineSession()
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._closed = threading.Event()

    @property
    def is_closed(self) -> bool:
        """Return whether nothing is sent any more."""
        return self._closed.is_set()

    def close(self) -> None:
        """Cut all connections, and end all waiting: whoever waits for an answer fails at once."""
        self._closed.set()
        self._http.close()

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond ``close``.

        Raises:
            ServiceUnavailable: It was closed meanwhile.
        """
        if self._closed.wait(max(0.0, seconds)):
            raise ServiceUnavailable(_ENDED)

    def page(self, address: str, path: str, *, most_bytes: int, deadline_s: float) -> Reply:
        """Return a page, which needs no model."""
        return self._answer("GET", address, path, None, most_bytes, deadline_s)

    def vectors(
        self, address: str, content: object, *, most_bytes: int, deadline_s: float | None
    ) -> Reply:
        """Return the answer to a request for embeddings, within ``timeout_s`` if not told else."""
        deadline_s = deadline_s or self._timeout_s
        return self._answer("POST", address, _EMBEDDINGS, content, most_bytes, deadline_s)

    def _answer(
        self,
        method: str,
        address: str,
        path: str,
        content: object,
        most_bytes: int,
        deadline_s: float,
    ) -> Reply:
        if self.is_closed:
            raise ServiceUnavailable(_ENDED)
        try:
            reply = self._http.request(
                method,
                address + path,
                content=content,
                headers={**self._headers, "X-Request-Timeout-Ms": str(int(deadline_s * 1000))},
                timeout_s=deadline_s,
                most_bytes=most_bytes,
            )
        except DeadlinePassed as error:
            raise self._timed_out(address, path, deadline_s) from error
        except ConnectionFailed as error:
            raise ServiceUnavailable(
                f"cannot reach the embedding service at {address} ({error}). "
                "Start it (make up) or correct EMBEDDING_API_URL"
            ) from error
        except ReplyRefused as error:
            raise ContractBroken(f"{address}: {error}") from error
        if reply.status != 200:
            raise refusal_of(reply, address)
        return reply

    def _timed_out(self, address: str, path: str, deadline_s: float) -> RequestTimedOut:
        told = f"{address} did not answer within {deadline_s:g} s"
        if path == _EMBEDDINGS and deadline_s == self._timeout_s:
            return RequestTimedOut(
                f"{told} (timeout_s). Lower batch_size, or raise EMBEDDING_API_TIMEOUT"
            )
        return RequestTimedOut(
            f"{told} ({path}): it stalls, or has too much to do. Look at its log, or restart it"
        )
