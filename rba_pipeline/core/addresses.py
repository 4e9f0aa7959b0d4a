"""Addresses of databases, with passwords that no message may repeat."""

import re
from urllib.parse import SplitResult, unquote, urlsplit

from rba_pipeline.core.errors import BadSetting

# It may have the @ that ends it in itself, and so may what follows.
_PASSWORDS = [re.compile(rf"[^:]*://[^:@]*:({run})@", re.S) for run in (".*", ".*?")]


def no_address(variable: str) -> str:
    """Return the message for a value that cannot be read, without anything of it."""
    return (
        f"{variable} is not a postgresql:// address. In a password, write % as %25, @ as %40, "
        "/ as %2F, [ as %5B"
    )


def address_parts(variable: str, url: str) -> SplitResult:
    """Return the parts of the address that a variable holds.

    Raises:
        BadSetting: It cannot be read.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port  # read only when asked for
    except ValueError:
        raise BadSetting(no_address(variable)) from None
    return parts


def hidden(text: str, url: str) -> str:
    """Return ``text`` with the password of ``url`` replaced where an address is shown.

    Anywhere else it stays: a password like ``rba`` is a part of other words.
    """
    passwords = [found[1] for pattern in _PASSWORDS if (found := pattern.match(url)) and found[1]]
    for password in (*passwords, *map(unquote, passwords)):
        for before, after in ((":", "@"), ("password=", ""), ("password='", "'")):
            text = text.replace(f"{before}{password}{after}", f"{before}***{after}")
    return text
