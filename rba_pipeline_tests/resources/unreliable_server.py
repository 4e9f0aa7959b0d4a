"""A server below HTTP: it takes a connection and hangs up on it, as a killed service does."""

import socket
import struct
import threading
from types import TracebackType
from typing import Self


class HangsUp:
    """Resets the first connection after its request came in, then stops listening: refused.

    Attributes:
        gone: Set when nothing listens on ``port`` any more.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(30)
        self.port = int(self._listener.getsockname()[1])
        self.gone = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.join(30)

    def _serve(self) -> None:
        try:
            connection, _ = self._listener.accept()
            # From now on nobody is let in: who comes before the reset waits for nothing.
            self._listener.close()
            connection.recv(65536)
            # A linger time of 0 makes closing a reset.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        finally:
            self._listener.close()
            self.gone.set()
