"""From a request that was read to its response: whole, or streamed. A client that disconnects stops the sampling."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from fastapi import Request
from fastapi.responses import Response

from server.http.disconnects import unless_disconnected
from server.protocols.openai.constraints import RequestedConstraint
from server.protocols.openai.replies import Envelope, json_response
from server.protocols.openai.schemas import Completion
from server.protocols.openai.streaming import EventStream
from server.sampling.answers import Answer, AnswerStream
from server.sampling.collaborators import Sampling
from server.sampling.requests import SampleRequest
from server.sampling.service import sample, stream
from server.sampling.target import Target
from wire.errors import ContextLengthExceeded, InvalidRequest

T = TypeVar("T")


class Reply(Protocol):
    """A kind of completion, made of answers."""

    @property
    def envelope(self) -> Envelope:
        """What all pieces of it have in common."""
        ...

    def whole(self, answers: list[Answer]) -> Completion:
        """All of it."""
        ...

    def chunks(self, stream: AnswerStream) -> AsyncGenerator[Completion]:
        """Its chunks as the answers come; closing it closes the stream."""
        ...


@dataclass(frozen=True, slots=True)
class Named:
    """The parameters of a request that the core and samplers know by other names."""

    prompt: str
    asked: RequestedConstraint | None

    def of(self, error: InvalidRequest) -> str | None:
        """What the client calls the field that a refusal is about."""
        if isinstance(error, ContextLengthExceeded):
            return self.prompt
        if error.param == "constraint":
            return self.asked[0] if self.asked else None
        return error.param


async def respond(
    sampling: Sampling, request: Request, target: Target, wanted: SampleRequest, reply: Reply, named: Named
) -> Response:
    """Sample, and reply. Raises what sampling raises until something was sent."""
    if wanted.whole:
        answers = await in_the_clients_words(request, sample(sampling, target, wanted), named)
        return json_response(reply.envelope, reply.whole(answers))
    chunks = reply.chunks(await in_the_clients_words(request, stream(sampling, target, wanted), named))
    return EventStream(reply.envelope, await anext(chunks), chunks)


async def in_the_clients_words(request: Request, work: Coroutine[Any, Any, T], named: Named) -> T:
    """The result of `work`, which ends with a client that disconnects; refusals name the client's fields."""
    try:
        return await unless_disconnected(request, work)
    except InvalidRequest as error:
        error.param = named.of(error)
        raise
