"""Every failure the service raises on purpose.

EngineError                   one request gets no vectors; each kind has a stable code
├── NotAllowed                  the key is missing or wrong
├── BadRequest                  the request as a whole is malformed; change it
├── TooLarge                    the request could never fit; split it
├── TooSlow                     the body took longer to arrive than it may
├── TextRejected                one text can never be embedded; its neighbours can
│   ├── TextTooLong               more tokens than the model takes
│   ├── TextEmpty                 nothing is left of it after tokenising
│   └── TextInvalid               not a string of Unicode scalar values
├── Refused                     nothing is wrong with the request; come back in ``retry_after_s``
│   ├── QueueFull                 the line holds as many tokens as it may
│   ├── MemoryFull                the requests being served hold as many bytes as they may
│   ├── NotReady                  loading, warming up, or broken
│   └── Draining                  about to stop
├── DeadlinePassed              the caller's patience ended first; nothing more is computed for it
└── BackendFailed               the model failed on this batch; the next batch runs

StartupError                  the service cannot start as configured; the text says what to change
├── SettingRefused              a setting is outside its range
└── ModelRefused                the model's folder is not one we may or can load
"""


class EngineError(Exception):
    """Base of all refusals; its text goes to the caller, so it never holds a text or a key."""

    code = "model_failed"


class NotAllowed(EngineError):
    """The key is missing or wrong."""

    code = "not_allowed"


class BadRequest(EngineError):
    """The request as a whole is malformed; sending it again cannot help."""

    code = "bad_request"


class TooLarge(EngineError):
    """The request could never fit; smaller ones may."""

    code = "too_large"


class TooSlow(EngineError):
    """The body did not arrive in time; the same may succeed over a better line."""

    code = "too_slow"


class TextRejected(EngineError):
    """The text at ``index`` of the request can never be embedded."""

    code = "text_invalid"

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


class TextTooLong(TextRejected):
    """The text has more tokens than the model takes, and the caller did not ask for truncation."""

    code = "text_too_long"


class TextEmpty(TextRejected):
    """Tokenising leaves nothing of the text but prompt and special tokens."""

    code = "text_empty"


class TextInvalid(TextRejected):
    """The text is not a string, or not one that can be encoded as UTF-8."""

    code = "text_invalid"


class Refused(EngineError):
    """Nothing is wrong with the request; the same may succeed after ``retry_after_s`` seconds."""

    code = "not_ready"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFull(Refused):
    """The line holds as many tokens as it may."""

    code = "queue_full"


class MemoryFull(Refused):
    """The requests that are being served hold as many bytes as they may."""

    code = "memory_full"


class NotReady(Refused):
    """The model is loading or warming up, or has broken down."""

    code = "not_ready"


class Draining(Refused):
    """The service finishes what it has accepted and then stops."""

    code = "draining"


class DeadlinePassed(EngineError):
    """The caller's patience ended before its vectors were there."""

    code = "deadline_passed"


class BackendFailed(EngineError):
    """The model failed on the batch that held this text; the cause is chained."""

    code = "model_failed"


class StartupError(Exception):
    """The service cannot start as configured."""


class SettingRefused(StartupError):
    """A setting is outside its range; the text names it, its value and the range."""


class ModelRefused(StartupError):
    """The model cannot or may not be loaded; the text says why and from where."""
