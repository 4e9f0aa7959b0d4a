"""What a model says of itself, without its weights; kept on disk beside a prepared model."""

from dataclasses import dataclass

from embedding_service.backend.base import Matryoshka, Prompts
from embedding_service.backend.rotary import Rotary


@dataclass(frozen=True, slots=True)
class Description:
    """Follows from the model's folder alone: no setting, runtime or machine changes it."""

    dimensions: int
    pooling: str
    prompts: Prompts
    matryoshka: Matryoshka | None
    pad_id: int
    usual_tokens: int
    """The longest text that the model's folder asks for."""
    native_tokens: int
    """What the model was trained for; longer texts, if it takes them, go a path of their own."""
    longest_tokens: int
    rotary: Rotary | None
    """None where positions have vectors of their own."""
