"""Speaking to one sampler over HTTP: the types of `wire.sampling`, and what becomes of its errors."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any, ClassVar

import httpx
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from wire.errors import HeadwayError, InvalidRequest, Unavailable
from wire.sampling import (
    DerenderRequest,
    GenerateEvent,
    GenerateRequest,
    ParsedMessage,
    RenderRequest,
    TokenIds,
    TokenizeRequest,
)


class SamplerGone(Unavailable):
    """This sampler died, or has just let go of the adapter; another may answer."""

    code: ClassVar[str] = "sampler_gone"


class SamplerFailed(HeadwayError):
    """The sampler answered with an error of its own."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "sampler_failed"


_TRY_ANOTHER = (404, 409, 410, 429, 502, 503, 504)


class SamplerClient:
    """The sampler port. `url` is the sampler's own; each call carries the token that samplers ask for."""

    def __init__(self, http: httpx.AsyncClient, token: str) -> None:
        self._http = http
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    async def render(self, url: str, request: RenderRequest) -> list[int]:
        """Messages to token ids."""
        return TokenIds.model_validate_json(await self._post(f"{url}/render", request)).token_ids

    async def tokenize(self, url: str, text: str) -> list[int]:
        """Plain text to token ids."""
        return TokenIds.model_validate_json(await self._post(f"{url}/tokenize", TokenizeRequest(text=text))).token_ids

    async def derender(self, url: str, request: DerenderRequest) -> ParsedMessage:
        """A sampled answer to content, reasoning and tool calls."""
        return ParsedMessage.model_validate_json(await self._post(f"{url}/derender", request))

    async def generate(self, url: str, request: GenerateRequest) -> AsyncGenerator[GenerateEvent]:
        """Sampled tokens as they come. Closing the generator makes the sampler stop. Raises SamplerGone when it dies
        before the last event."""
        finished = False
        try:
            async with self._http.stream(
                "POST", f"{url}/generate", content=_as_json(request), headers=self._headers
            ) as response:
                if response.status_code != 200:
                    raise _refusal(response.status_code, await response.aread())
                async for line in response.aiter_lines():
                    event = GenerateEvent.model_validate_json(line)
                    finished = event.finish_reason is not None
                    yield event
        except (httpx.TransportError, ValidationError) as error:
            raise SamplerGone(f"the sampler was lost while it answered ({type(error).__name__}); try again") from error
        if not finished:
            raise SamplerGone("the sampler was lost while it answered; try again")

    async def _post(self, url: str, body: BaseModel) -> bytes:
        try:
            response = await self._http.post(url, content=_as_json(body), headers=self._headers)
        except httpx.TransportError as error:
            raise SamplerGone(f"the sampler does not answer ({type(error).__name__}); try again") from error
        if response.status_code != 200:
            raise _refusal(response.status_code, response.content)
        return response.content


def _as_json(body: BaseModel) -> str:
    """What goes to the sampler. JSON from a client may hold what cannot be written as JSON again."""
    try:
        return body.model_dump_json()
    except PydanticSerializationError as error:
        if "surrogates" in str(error):
            raise InvalidRequest("the request holds half a surrogate pair, which is not a character") from None
        raise InvalidRequest("the request is nested too deeply") from None


def _refusal(status: int, body: bytes) -> HeadwayError:
    sentence = _message(body) or f"the sampler answered {status}"
    if status in _TRY_ANOTHER:
        return SamplerGone(sentence)
    if 400 <= status < 500 and status not in (401, 403):
        return InvalidRequest(sentence)
    return SamplerFailed(sentence)


def _message(body: bytes) -> str | None:
    try:
        message: Any = json.loads(body)["message"]
    except (ValueError, KeyError, TypeError):
        return None
    return message if isinstance(message, str) else None
