"""The key that callers must show."""

import hashlib
import hmac
from collections.abc import Iterable, Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from embedding_service.api.errors import error_response
from embedding_service.errors import NotAllowed

# A supervisor has no key, and learns from these no more than that the process is there.
OPEN_PATHS = frozenset({"/live", "/ready"})


class KeyRequired:
    """Lets a request through to ``app`` if its path is open or it carries one of the keys."""

    def __init__(self, app: ASGIApp, *, keys: Sequence[str]) -> None:
        """No keys at all let everyone in."""
        self._app = app
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._may_pass(scope):
            error = NotAllowed("expected the service's key as 'Authorization: Bearer …'")
            await error_response(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        if not self._digests or scope["path"] in OPEN_PATHS:
            return True
        return _opens(scope["headers"], self._digests)


def _opens(headers: Iterable[tuple[bytes, bytes]], digests: Sequence[bytes]) -> bool:
    """Return whether the only Authorization header carries a key, in time that tells nothing.

    Two such headers are refused: whoever stands between may have read the other one. Header names
    are lower case, as ASGI gives them; values are bytes: what a client sends need not be ASCII.
    """
    shown = [value for name, value in headers if name == b"authorization"]
    if len(shown) != 1:
        return False
    scheme, _, token = shown[0].partition(b" ")
    found = _digest(token.strip())
    # A list, so that every key is compared, whichever it is. Digests have one length.
    matches = [hmac.compare_digest(found, digest) for digest in digests]
    return any(matches) and scheme.lower() == b"bearer"


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
