"""The key that callers must show."""

import hmac
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from embedding_service.api.errors import error_response
from embedding_service.errors import NotAllowed

# A supervisor has no key, and learns from these no more than that the process is there.
OPEN_PATHS = frozenset({"/live", "/ready"})


class KeyRequired:
    """Lets a request through to ``app`` if its path is open or it carries the key."""

    def __init__(self, app: ASGIApp, *, key: str | None) -> None:
        """``key`` None lets everyone in."""
        self._app = app
        self._key = None if key is None else key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._may_pass(scope):
            error = NotAllowed("expected the service's key as 'Authorization: Bearer …'")
            await error_response(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        if self._key is None or scope["path"] in OPEN_PATHS:
            return True
        return key_matches(scope["headers"], self._key)


def key_matches(headers: Iterable[tuple[bytes, bytes]], key: bytes) -> bool:
    """Return whether the first Authorization header carries ``key``, in time that tells nothing.

    Header names are lower case, as ASGI gives them. Values are compared as bytes: what a client
    sends need not be ASCII.
    """
    shown = next((value for name, value in headers if name == b"authorization"), b"")
    scheme, _, token = shown.partition(b" ")
    return hmac.compare_digest(token.strip(), key) and scheme.lower() == b"bearer"
