"""JSON bodies as models, and what is wrong with them. Imported by the process that reads uploads, which
should start soon."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from server.uploads.json_size import JsonBounds
from server.values.validation_messages import invalid_request
from wire.errors import InvalidRequest

ModelT = TypeVar("ModelT", bound=BaseModel)

_BOUNDS = JsonBounds(containers=500_000, texts=2_000_000)
"""Of a large body: each list or object becomes a model of ours, a hundred times the bytes that it is written in."""
_UNREADABLE = {
    "in hex escape": "the request holds half a surrogate pair, which is not a character",
    "end of hex escape": "the request holds half a surrogate pair, which is not a character",
    "recursion limit exceeded": "the request is nested too deeply",
}
"""What the parser says, and in our words."""


def parse_large(content: bytes, model: type[ModelT]) -> ModelT:
    """For the process that reads uploads. Raises InvalidRequest, or TooLarge."""
    _BOUNDS.check(content)
    return parse(content, model)


def parse(content: bytes, model: type[ModelT]) -> ModelT:
    """The body as `model`. Raises InvalidRequest."""
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise _refusal(error, content) from None


def _refusal(error: ValidationError, content: bytes) -> InvalidRequest:
    if not content.strip():
        return InvalidRequest("the request needs a JSON body")
    refusal = invalid_request(error.errors(include_url=False, include_input=False))
    unreadable = (sentence for words, sentence in _UNREADABLE.items() if f"{words} at line" in refusal.message)
    return InvalidRequest(next(unreadable, refusal.message), param=refusal.param)
