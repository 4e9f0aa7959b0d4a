"""What a request may say; unknown fields are refused, so that a misspelt one is noticed."""

import json
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError

from embedding_service.errors import BadRequest, EngineError, TextInvalid

Text = Annotated[str, Strict()]


class EmbeddingRequest(BaseModel):
    """The body of ``POST /embeddings``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: Text | list[Text] = Field(description="One text, or up to max_texts of them.")
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
        found = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
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
    found = error.errors(include_input=False, include_url=False)[0]
    where = str(found["loc"][0])[:50] if found["loc"] else "body"
    return BadRequest(f"{where}: {found['msg']}")
