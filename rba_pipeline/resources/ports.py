"""TCP ports of this machine's loopback."""

import errno
import random
import socket

from rba_pipeline.core.errors import RbaError

LOOPBACK = "127.0.0.1"
_TRIED_PORTS = 100
# Below the ports that Linux lends to outgoing connections (32768 and up): one of those can be gone
# between our look and the server's bind.
_ANY = range(20_000, 32_000)


def free_port(preferred: int) -> int:
    """Return ``preferred``, or the next higher port on which nobody listens; 0 stands for any.

    Another process may take it before the caller does: whoever binds it has the last word.

    Raises:
        RbaError: The hundred ports from ``preferred`` on are all taken.
    """
    preferred = preferred or random.choice(_ANY)
    for port in range(preferred, min(preferred + _TRIED_PORTS, 65536)):
        with socket.socket() as probe:
            # As servers do it; otherwise a port counts as taken for a minute after its server left.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError as error:
                if error.errno in (errno.EADDRINUSE, errno.EACCES):
                    continue
                raise
            return int(probe.getsockname()[1])
    raise RbaError(f"no free port from {preferred} on; stop something, or set another one in .env")


def somebody_listens(port: int) -> bool:
    """Return whether a connection to ``port`` is accepted at once."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0
