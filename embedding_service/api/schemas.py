"""What a request may say; unknown fields are refused, so that a misspelt one is noticed."""

import json
from typing import Annotated, Any, Literal, NoReturn

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, ValidationError

from embedding_service.errors import BadRequest, EngineError, TextInvalid


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("expected no lone surrogate") from None
    return text


Text = Annotated[str, Strict(), AfterValidator(_encodable)]
# Only said here: admission refuses an empty text, and names it.
_Embeddable = Annotated[Text, Field(json_schema_extra={"minLength": 1, "pattern": r"\S"})]


class EmbeddingRequest(BaseModel):
    """The body of ``POST /embeddings``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: _Embeddable | Annotated[list[_Embeddable], Field(min_length=1)] = Field(
        description="One text, or up to max_texts of them; white space alone is not a text."
    )
    model: Text | None = Field(
        default=None, description="The served model's name, its last part, or 'default'."
    )
    encoding_format: Literal["float", "base64"] = Field(
        default="float", description="base64 is of little-endian float32."
    )
    dimensions: Annotated[int, Strict()] | None = Field(
        default=None, ge=1, description="Length of the vectors, where the model can be cut."
    )
    input_type: Literal["document", "query", "raw"] = Field(
        default="document", description="Which prompt goes before each text."
    )
    truncate: Annotated[bool, Strict()] = Field(
        default=False, description="Cut a text that is too long instead of refusing it."
    )
    user: Text | None = Field(default=None, description="Accepted and ignored.")

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


def parse_request(body: bytes) -> EmbeddingRequest:
    """Return the request in ``body``, its texts in any state: empty, too long, ill-formed Unicode.

    Raises:
        BadRequest: Not UTF-8, not JSON, or not of the shape above.
        TextInvalid: One of the texts is not a string.
    """
    try:
        # Not pydantic's own parser: it refuses a lone surrogate without saying in which text.
        found = json.loads(
            body.decode("utf-8"),
            parse_constant=_refuse_constant,
            object_pairs_hook=_without_duplicates,
        )
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON in UTF-8") from None
    if not isinstance(found, dict):
        raise BadRequest("the body is not a JSON object")
    texts = _texts_of(found)
    try:
        # pydantic would refuse a lone surrogate here; admission does, and names the text.
        request = EmbeddingRequest.model_validate(found | {"input": ["x"] * len(texts)})
    except ValidationError as error:
        raise _explained(error) from None
    return request.model_copy(update={"input": texts})


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two values of one name: whoever checked the request before us may have read the other one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise BadRequest("a name stands twice in one JSON object")
    return found


def _texts_of(found: dict[str, Any]) -> list[str]:
    texts = found.get("input")
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, list) or not texts:
        raise BadRequest("input: expected a text, or a list of at least one text")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TextInvalid(f"text {index} is not a string", index)
    return texts


def _explained(error: ValidationError) -> EngineError:
    """Say what is wrong without a word of the caller's: a misplaced text may be a field's name."""
    found = error.errors(include_input=False, include_url=False)[0]
    if found["type"] == "extra_forbidden":
        known = ", ".join(EmbeddingRequest.model_fields)
        return BadRequest(f"unknown field; known are {known}")
    where = str(found["loc"][0]) if found["loc"] else "body"
    return BadRequest(f"{where}: {found['msg']}")
