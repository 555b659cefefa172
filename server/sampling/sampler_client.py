"""Calls of one sampler over HTTP, in the types of `wire.sampling`, and what becomes of its errors."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, ClassVar
from uuid import UUID

import structlog
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from server.metrics.instruments import ServerMetrics
from server.sampling.connections import ConnectionFailed, Connections, Exchange, NotReached
from wire.errors import A_FEW, UNTIL_MENDED, ContextLengthExceeded, HeadwayError, InvalidRequest, Unavailable
from wire.pictures import is_name
from wire.process.tokens import Tokens
from wire.process.tracing import span_apart
from wire.sampling import (
    Flow,
    GenerateEvent,
    GenerateRequest,
    PromptScores,
    RenderRequest,
    ScoreRequest,
    TokenIds,
    TokenizeRequest,
    TokenTexts,
    TokenTextsRequest,
)

log = structlog.get_logger(__name__)


class SamplerGone(Unavailable):
    """This sampler died, or has just let go of the adapter; another may answer. `broke_off`: it had the request."""

    code: ClassVar[str] = "sampler_gone"
    tries: ClassVar[int | None] = UNTIL_MENDED
    broke_off: bool = True


class SamplerFailed(HeadwayError):
    """The sampler answered with an error of its own."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "sampler_failed"
    tries: ClassVar[int | None] = A_FEW


ReadPicture = Callable[[UUID, str], Awaitable[bytes]]
"""The canonical PNG of a team's picture, by its name. Raises NotFound, Gone."""

_MOST_HANDED = 3
"""So often a request's pictures are handed to a sampler, which may have to make room between them and the request."""
_LACKS_PICTURES = 424
_JSON, _PNG = "application/json", "image/png"
_TRY_ANOTHER = (404, 409, 410, 429, 502, 503, 504)
_OUT_OF_ORDER = (502, 503, 504)
_TOKEN_REFUSED = 401
_SAY_EVERY_S = 60.0
_NOT_THERE = (404, 409, 410, 429)
"""The adapter, or room for more; nothing was computed."""


class SamplerClient:
    """The sampler port. `url` is the sampler's own; each call carries the token that samplers ask for. `on_lost` is
    called with the URL of one that does not answer, or whose connection breaks.

    Requests name their pictures. A sampler that lacks some says so before it begins: it is handed them, out of
    `read_picture`, and asked again. One that never took a picture is handed one before it is believed: of an older
    release it would pass over what a request says of them, and answer what it never saw.
    """

    def __init__(
        self,
        connections: Connections,
        tokens: Tokens,
        on_lost: Callable[[str], None],
        read_picture: ReadPicture,
        metrics: ServerMetrics | None = None,
    ) -> None:
        self._connections = connections
        self._tokens = tokens
        self._on_lost = on_lost
        self._read_picture = read_picture
        self._metrics = metrics or ServerMetrics()
        self._took_pictures = set[str]()  # URLs of samplers
        self._refused_at = dict[str, float]()

    async def render(self, url: str, request: RenderRequest) -> TokenIds:
        """Messages to token ids, and the pictures that some of them stand for."""
        return TokenIds.model_validate_json(await self._post(url, "/render", _as_json(request), request))

    async def tokenize(self, url: str, request: TokenizeRequest) -> list[int]:
        """Plain text to token ids."""
        return TokenIds.model_validate_json(await self._post(url, "/tokenize", _as_json(request))).token_ids

    async def token_texts(self, url: str, token_ids: list[int]) -> TokenTexts:
        """What tokens say, for people to read. Raises SamplerGone where the sampler does not know of this."""
        request = TokenTextsRequest(token_ids=token_ids)
        return TokenTexts.model_validate_json(await self._post(url, "/token-texts", _as_json(request)))

    async def score(self, url: str, request: ScoreRequest) -> PromptScores:
        """Logprobs of a prompt's own tokens. Raises NotFound, Gone where a picture of it is not kept any more."""
        self._metrics.prompt_sent(len(request.prompt_token_ids))
        return PromptScores.model_validate_json(await self._post(url, "/score", _as_json(request), request))

    async def tokenizer(self, url: str) -> bytes:
        """The files of the base's tokenizer, as a tar archive."""
        return await self._post(url, "/tokenizer", b"{}")

    async def generate(self, url: str, request: GenerateRequest) -> AsyncGenerator[GenerateEvent]:
        """Sampled tokens as they come. Closing the generator makes the sampler stop. Raises SamplerGone when it dies
        before the last event; NotFound, Gone where a picture of the prompt is not kept any more."""
        finished = False
        with self._call("/generate") as headers:
            if request.chat is None:
                self._metrics.prompt_sent(len(request.prompt_token_ids))
            try:
                async with self._asked(url, "/generate", headers, _as_json(request), request) as exchange:
                    if exchange.status != 200:
                        raise self._refusal(url, exchange.status, await exchange.read())
                    line = b""
                    async for chunk in exchange.chunks():
                        *lines, line = (line + chunk).split(b"\n")
                        for complete in lines:
                            event = GenerateEvent.model_validate_json(complete)
                            if event.prompt_token_ids is not None:
                                self._metrics.prompt_sent(len(event.prompt_token_ids))
                            self._metrics.sampled(len(event.tokens))
                            finished = event.finish_reason is not None
                            yield event
            except (ConnectionFailed, ValidationError) as error:
                raise self._lost(url, "the sampler was lost while it answered; try again", error) from error
            if not finished:
                raise self._lost(url, "the sampler was lost while it answered; try again")

    async def _post(self, url: str, path: str, body: bytes, request: Flow | None = None, kind: str = _JSON) -> bytes:
        with self._call(path, kind) as headers:
            try:
                async with self._asked(url, path, headers, body, request) as exchange:
                    content = await exchange.read()
            except ConnectionFailed as error:
                raise self._lost(url, "the sampler does not answer; try again", error) from error
            if exchange.status not in (200, 204):
                raise self._refusal(url, exchange.status, content, kind)
        return content

    @asynccontextmanager
    async def _asked(
        self, url: str, path: str, headers: bytes, body: bytes, request: Flow | None
    ) -> AsyncGenerator[Exchange]:
        """The reply to a body. `request`: what it says, where it may name pictures."""
        named = _names_in(request)
        for _ in range(_MOST_HANDED):
            async with self._connections.post(url + path, headers, body) as exchange:
                is_believed = exchange.status != 200 or not named or url in self._took_pictures
                if request is None or (exchange.status != _LACKS_PICTURES and is_believed):
                    yield exchange
                    return
                missing = _missing_names(await exchange.read()) if exchange.status == _LACKS_PICTURES else named[:1]
            await self._hand(url, UUID(request.team), missing)
        async with self._connections.post(url + path, headers, body) as exchange:
            yield exchange

    async def _hand(self, url: str, team_id: UUID, names: list[str]) -> None:
        for name in names:
            await self._post(url, f"/pictures/{name}", await self._read_picture(team_id, name), kind=_PNG)
            self._took_pictures.add(url)

    @contextmanager
    def _call(self, path: str, kind: str = _JSON) -> Generator[bytes]:
        """Time the block, and give the headers that its call carries: token, request and span."""
        name, started, outcome = path.split("/")[1], time.perf_counter(), "failed"
        try:
            with span_apart(f"sampler {name}", kind="client") as call:
                more = call.headers()
                if request_id := structlog.contextvars.get_contextvars().get("request_id"):
                    more["X-Request-Id"] = request_id
                more |= {"Authorization": f"Bearer {self._tokens.sent}", "Content-Type": kind}
                yield "".join(f"{key}: {value}\r\n" for key, value in more.items()).encode()
            outcome = "done"
        except GeneratorExit:
            outcome = "stopped"
            raise
        finally:
            self._metrics.sampler_called(name, outcome, time.perf_counter() - started)

    def _not_let_in(self, url: str) -> SamplerGone:
        """The token is being rotated in the wrong order, which ends by itself, or was never the same; nothing was
        computed. The log says so once a minute."""
        now = time.monotonic()
        if now - self._refused_at.get(url, -_SAY_EVERY_S) >= _SAY_EVERY_S:
            self._refused_at[url] = now
            log.warning("sampler_refuses_token", url=url, then="its tokens must have the first one of this server")
        gone = SamplerGone("the sampler does not accept this server's token; try again")
        gone.broke_off = False
        return gone

    def _lost(self, url: str, sentence: str, error: Exception | None = None) -> SamplerGone:
        self._on_lost(url)
        gone = SamplerGone(sentence)
        gone.broke_off = not isinstance(error, NotReached)
        return gone

    def _refusal(self, url: str, status: int, body: bytes, kind: str = _JSON) -> HeadwayError:
        code, message, param = _problem(body)
        sentence = message or f"the sampler answered {status}"
        if status in _OUT_OF_ORDER and kind != _PNG:  # for a picture there was no room
            return self._lost(url, sentence)
        if status == _TOKEN_REFUSED:
            return self._not_let_in(url)
        if status in (_LACKS_PICTURES, *_TRY_ANOTHER):
            gone = SamplerGone(sentence)
            gone.broke_off = status not in (_LACKS_PICTURES, *_NOT_THERE) and kind != _PNG
            return gone
        if code == ContextLengthExceeded.code:
            return ContextLengthExceeded(sentence)
        if 400 <= status < 500 and status != 403:
            return InvalidRequest(sentence, param=param)
        return SamplerFailed(sentence)


def _as_json(body: BaseModel) -> bytes:
    """What goes to the sampler. JSON from a client may hold what cannot be written as JSON again."""
    try:
        return body.__pydantic_serializer__.to_json(body)
    except PydanticSerializationError as error:
        if "surrogates" in str(error):
            raise InvalidRequest("the request holds half a surrogate pair, which is not a character") from None
        raise InvalidRequest("the request is nested too deeply") from None


def _names_in(request: Flow | None) -> list[str]:
    """Pictures that a request names beside ids or messages, where whoever does not know of them passes over them."""
    if isinstance(request, GenerateRequest) and request.chat is not None:
        request = request.chat
    if isinstance(request, RenderRequest):
        return [item.name for item in request.continued_media]
    return [item.name for item in request.prompt_media] if isinstance(request, GenerateRequest | ScoreRequest) else []


def _missing_names(body: bytes) -> list[str]:
    try:
        problem: dict[str, Any] = json.loads(body)
        names = [name for name in problem["names"] if is_name(name)]
    except (ValueError, KeyError, TypeError):
        names = []
    if not names:
        raise SamplerFailed("the sampler lacks pictures, and does not say which")
    return names


def _problem(body: bytes) -> tuple[str, str, str | None]:
    """Code and sentence of a refusal, empty where it has none, and the field that it is about."""
    try:
        problem: dict[str, Any] = json.loads(body)
        return str(problem["code"]), str(problem["message"]), problem.get("param")
    except (ValueError, KeyError, TypeError):
        return "", "", None
