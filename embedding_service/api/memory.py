"""How many bytes all requests together hold, from the first of a body to the last of an answer."""

from collections.abc import Callable

from embedding_service.errors import MemoryFull, TooLarge

# CPython, rounded up: a value in a list, and a name with its place in a dictionary.
_VALUE_BYTES = 72
_NAME_BYTES = 256
_EMPTY_REQUEST_BYTES = 8192
# A float32, and its digits and comma as JSON; base64 is shorter.
_NUMBER_BYTES = 4 + 14
# A few hundred bytes of JSON around each vector.
_ITEM_BYTES = 512

# About what a short body takes when it is parsed. Whoever wants more leaves this part of the
# budget to the others: uploads that stall must not keep a search out.
_SHORT_BYTES = 524_288
_RESERVED_PART = 8


class RequestMemory:
    """A budget in bytes. Only the event loop's thread takes from it and gives back."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0

    def holding(self) -> "Holding":
        return Holding(self)


class Holding:
    """What one request holds of the budget."""

    def __init__(self, memory: RequestMemory) -> None:
        self._memory = memory
        self._bytes = 0
        self.short = True
        """Set to False for a body that is not short: it takes nothing of what is reserved."""

    def set(self, n_bytes: int, *, retry_after_s: Callable[[], int] = lambda: 1) -> None:
        """Hold ``n_bytes`` in place of what was held before.

        Raises:
            TooLarge: More than all that such a request may ever take.
            MemoryFull: More than the others leave now.
        """
        memory = self._memory
        most = memory.max_bytes
        if not self.short or n_bytes > _SHORT_BYTES:
            most -= most // _RESERVED_PART
        if n_bytes > most:
            raise TooLarge(f"the request would take {n_bytes} of {most} bytes; split it")
        others = memory.held_bytes - self._bytes
        if n_bytes > self._bytes and others + n_bytes > most:
            raise MemoryFull(f"other requests hold {others} of {most} bytes", retry_after_s())
        memory.held_bytes += n_bytes - self._bytes
        self._bytes = n_bytes

    def release(self) -> None:
        self.set(0)


def parsed_bytes(body: bytes) -> int:
    """Return the most that ``body``, its characters and its parsed values can take together.

    A guess from above in one quick look: a list of empty lists takes thirty times its text, and
    one rare character makes four bytes of every other one in the same string.
    """
    width = _width(body)
    # As an escape, a character that is not ASCII takes six bytes or more of the body.
    text_width = 4 if b"\\u" in body else width
    values = body.count(b",") + body.count(b"[")
    names = body.count(b":") + body.count(b"{")
    characters = len(body) * (1 + width + text_width)
    return characters + values * _VALUE_BYTES + names * _NAME_BYTES + _EMPTY_REQUEST_BYTES


def _width(utf8: bytes) -> int:
    """Return the most bytes that CPython takes for one character of a string in ``utf8``."""
    if utf8.isascii():
        return 1
    return 4 if any(lead in utf8 for lead in _FOUR_BYTE_LEADS) else 2


_FOUR_BYTE_LEADS = [bytes([lead]) for lead in range(0xF0, 0xF5)]


def answer_bytes(texts: int, dimensions: int) -> int:
    """Return the most that an answer takes, as vectors and as JSON."""
    return texts * (dimensions * _NUMBER_BYTES + _ITEM_BYTES)
