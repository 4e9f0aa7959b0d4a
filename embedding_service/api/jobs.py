"""From a body to what is to be computed, and from vectors to a body; slow, so done in threads."""

from collections.abc import Callable
from dataclasses import dataclass

from embedding_service.api.answers import Limits, vectors_body
from embedding_service.api.schemas import parse_request
from embedding_service.backend.base import Backend, InputType, Vectors
from embedding_service.engine.admission import AdmissionLimits, Admitted, admit
from embedding_service.engine.dimensions import check_dimensions, cut
from embedding_service.engine.engine import Engine
from embedding_service.engine.tickets import Lane
from embedding_service.errors import BadRequest, DeadlinePassed


@dataclass(frozen=True, slots=True)
class Job:
    """A request without its texts."""

    admitted: Admitted
    input_type: InputType
    dimensions: int
    encoding_format: str

    @property
    def lane(self) -> Lane:
        return _lane(self.input_type)


def _lane(input_type: InputType) -> Lane:
    return "query" if input_type == "query" else "document"


def parsed(body: bytes, engine: Engine, limits: Limits, given_up: Callable[[], bool]) -> Job:
    """Return what ``body`` asks for; ``given_up`` says whether nobody waits for it any more.

    Raises:
        BadRequest: It is not a request, or not one that this model can answer.
        TooLarge: More texts or tokens than could ever fit.
        TextRejected: One of its texts cannot be embedded.
        QueueFull: Its first texts, or not even one token, would fit now.
        DeadlinePassed: It was given up while its texts were tokenised.
    """
    backend = engine.backend
    asked = parse_request(body)
    _check_model(asked.model, backend.space.model)
    dimensions = check_dimensions(backend, asked.dimensions)
    lane = _lane(asked.input_type)
    # Cheaper than to tokenise first; which lane it is for was not known before.
    engine.refuse_if_full(lane)

    def refuse_if_in_vain(tokens: int) -> None:
        if given_up():
            raise DeadlinePassed("the deadline passed while the texts were tokenised")
        engine.refuse_if_full(lane, tokens)

    admitted = admit(
        asked.texts,
        asked.input_type,
        truncate=asked.truncate,
        backend=backend,
        limits=AdmissionLimits(limits.max_texts, engine.room[lane], engine.longest_text),
        refuse_if_in_vain=refuse_if_in_vain,
    )
    return Job(admitted, asked.input_type, dimensions, asked.encoding_format)


def _check_model(asked: str | None, served: str) -> None:
    if asked not in (None, served, served.rpartition("/")[2], "default"):
        raise BadRequest(f"model: only {served} is served here")


def rendered(vectors: Vectors, job: Job, backend: Backend) -> bytes:
    """Return the answer's body; ``vectors`` are float32 of shape ``(n, dimensions of the model)``,
    in the order of the job's texts."""
    layer_norm = backend.matryoshka is not None and backend.matryoshka.layer_norm_first
    return vectors_body(
        cut(vectors, job.dimensions, layer_norm_first=layer_norm),
        admitted=job.admitted,
        space=backend.space.cut_to(job.dimensions),
        encoding_format=job.encoding_format,
    )
