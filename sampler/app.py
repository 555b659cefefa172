"""A sampler over HTTP, as the gateway sees it: render, tokenize, generate, score, pictures; and whether it lives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Receive, Scope, Send

from sampler.admission.admission import Admission, Bounds
from sampler.admission.request_sizes import check_sizes
from sampler.backends.base import AnswerReader, SamplerBackend
from sampler.metrics import SamplerMetrics
from sampler.pictures.expanding import pictures_of
from sampler.pictures.holding import HeldPictures
from sampler.refusals import error_response
from sampler.requests import MeasuredCalls
from wire.errors import HeadwayError, InvalidRequest, Unauthenticated
from wire.process.closing_stream import ClosingStream
from wire.process.tokens import Tokens
from wire.sampling import (
    DerenderRequest,
    GenerateEvent,
    GenerateRequest,
    ParsedMessage,
    PromptScores,
    RenderRequest,
    SampledTokens,
    ScoreRequest,
    TokenIds,
    TokenizeRequest,
    TokenTexts,
    TokenTextsRequest,
)

T = TypeVar("T")
Events = AsyncGenerator[GenerateEvent, None]

_PROMPT_MEDIA = {"prompt_media"}
_CANNOT_CONSTRAIN = (
    "the sampler backend {} does not constrain what the policy writes: ask for the format, or the call, in the prompt, "
    "and check the answer"
)


def create_app(
    backend: SamplerBackend,
    tokens: Tokens,
    metrics: SamplerMetrics | None = None,
    metrics_tokens: Tokens | None = None,
    bounds: Bounds | None = None,
    tokenizer: Callable[[], bytes] | None = None,
) -> FastAPI:
    """The app over a backend, which it does not close. `tokenizer`: reads the archive of the base's tokenizer.

    Every route but /healthz wants `Authorization: Bearer token`; /metrics takes the token for scrapes as well.
    """
    if not tokens:
        raise ValueError("a sampler needs a token; an empty one would let everyone in")
    app = FastAPI(title="Headway sampler", docs_url=None, redoc_url=None, openapi_url=None)
    metrics = metrics or SamplerMetrics()
    app.add_middleware(Admission, limits=backend.prompt_limits, bounds=bounds or Bounds())
    app.add_middleware(MeasuredCalls, metrics=metrics)
    app.add_middleware(_RequireToken, tokens=tokens, metrics_tokens=metrics_tokens or Tokens())
    app.add_exception_handler(HeadwayError, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_validation_error)
    held = HeldPictures()
    _add_routes(app, backend, metrics, held)
    _add_pictures(app, backend, held)
    if tokenizer is not None:
        _add_tokenizer(app, tokenizer)
    return app


def _add_routes(app: FastAPI, backend: SamplerBackend, metrics: SamplerMetrics, held: HeldPictures) -> None:
    async def healthz(response: Response) -> dict[str, Any]:
        trouble, rule = backend.trouble(), backend.info.pictures
        response.status_code = 503 if trouble else 200
        return {"status": trouble or "ok", **({"pictures": rule.to_json()} if rule else {})}

    async def show_metrics() -> Response:
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    async def render(body: RenderRequest, request: Request) -> TokenIds | Response:
        tokens = await _unless_gone(request, backend.render(body))
        return _gone() if tokens is None else tokens

    async def tokenize(body: TokenizeRequest, request: Request) -> TokenIds | Response:
        token_ids = await _unless_gone(request, backend.tokenize(body))
        return _gone() if token_ids is None else TokenIds(token_ids=token_ids)

    async def token_texts(body: TokenTextsRequest) -> TokenTexts:
        return backend.token_texts(body.token_ids)

    async def generate(body: GenerateRequest, request: Request) -> Response:
        if body.params.constraint is not None and not backend.info.constrains:
            raise InvalidRequest(_CANNOT_CONSTRAIN.format(type(backend).__name__), param="constraint")
        check_sizes(body)
        begun = await _unless_gone(request, _begin(backend, held, body, metrics))
        if begun is None:
            return _gone()
        first, events = begun
        return ClosingStream(_lines(first, events), events, media_type="application/x-ndjson")

    async def score(body: ScoreRequest, request: Request) -> PromptScores | Response:
        with held.using(_taken(backend, {item.name for item in body.prompt_media})) as pictures:
            scores = await _unless_gone(request, backend.score(body, pictures))
        if scores is None:
            return _gone()
        metrics.scored(len(body.prompt_token_ids))
        return scores

    app.get("/healthz")(healthz)
    app.get("/metrics")(show_metrics)
    app.post("/render", response_model=TokenIds, response_model_exclude_defaults=True)(render)
    app.post("/tokenize", response_model=TokenIds, response_model_exclude_defaults=True)(tokenize)
    app.post("/token-texts")(token_texts)
    app.post("/generate", response_model=None)(generate)
    app.post("/score", response_model=PromptScores)(score)


def _add_pictures(app: FastAPI, backend: SamplerBackend, held: HeldPictures) -> None:
    async def take(name: str, request: Request) -> Response:
        _taken(backend, {name})
        await held.add(name, await request.body())
        return Response(status_code=204)

    app.post("/pictures/{name}", response_model=None)(take)


def _add_tokenizer(app: FastAPI, read: Callable[[], bytes]) -> None:
    async def tokenizer() -> Response:
        return Response(await asyncio.to_thread(read), media_type="application/x-tar")

    app.post("/tokenizer", response_model=None)(tokenizer)


async def _begin(
    backend: SamplerBackend, held: HeldPictures, body: GenerateRequest, metrics: SamplerMetrics
) -> tuple[GenerateEvent, Events]:
    """The first event, and where the others come from. Raises PicturesMissing before all work."""
    if body.chat is not None:
        body.chat.team, body.chat.call = body.team, body.call
        held.require(_taken(backend, _names_in(body.chat)))
        rendered = await backend.render(body.chat)
        body.prompt_token_ids, body.prompt_media = rendered.token_ids, rendered.media
    events = _counted(_generated(backend, held, body), len(body.prompt_token_ids), metrics)
    if body.whole:
        events = _as_one(events, partial(_message, backend, body))
    elif body.reading is not None:
        events = _read(events, backend.reader(body, body.reading))
    first = await anext(events)
    if body.chat is not None:
        first.prompt_token_ids, first.prompt_media = body.prompt_token_ids, body.prompt_media
    return first, events


def _taken(backend: SamplerBackend, names: set[str]) -> set[str]:
    """The names of pictures. Raises InvalidRequest where there are some and the base takes text alone."""
    if names and backend.info.pictures is None:
        raise InvalidRequest("this base takes no pictures")
    return names


def _names_in(chat: RenderRequest) -> set[str]:
    shown = pictures_of(chat.messages)
    return {picture.name for picture in shown} | {item.name for item in chat.continued_media}


async def _generated(backend: SamplerBackend, held: HeldPictures, body: GenerateRequest) -> Events:
    """What the backend generates; its pictures are kept that long."""
    with held.using(_taken(backend, {item.name for item in body.prompt_media})) as pictures:
        async with aclosing(backend.generate(body, pictures)) as events:
            async for event in events:
                yield event


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """What comes before any header is sent, so that an error keeps its status. None if the client disconnected, which
    ends the work."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_hang_up(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        gone.cancel()
        task.cancel()


def _gone() -> Response:
    return Response(status_code=499)  # nobody reads it


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _read(events: Events, reader: AnswerReader) -> Events:
    async with aclosing(events):
        async for event in events:
            event.deltas = await reader.take(event)
            yield event


async def _counted(events: Events, num_prompt_tokens: int, metrics: SamplerMetrics) -> Events:
    async with aclosing(events):
        with metrics.sampling(num_prompt_tokens):
            async for event in events:
                metrics.sampled(len(event.tokens))
                yield event


async def _as_one(events: Events, read: Callable[[list[int], str], Awaitable[ParsedMessage | None]]) -> Events:
    """All events in one. To write and to read one line a token costs more than the tokens themselves do."""
    tokens, texts, reason = SampledTokens(), list[str](), None
    async with aclosing(events):
        async for event in events:
            tokens.extend(event.tokens)
            texts.append(event.text)
            reason = event.finish_reason
    text = "".join(texts)
    message = await read(tokens.ids, text)
    yield GenerateEvent.model_construct(tokens=tokens, text=text, finish_reason=reason, deltas=[], message=message)


async def _message(
    backend: SamplerBackend, request: GenerateRequest, token_ids: list[int], text: str
) -> ParsedMessage | None:
    if request.reading is None:
        return None
    answer = DerenderRequest(
        token_ids=token_ids, text=text, prompt_token_ids=request.prompt_token_ids, **dict(request.reading)
    )
    return await backend.derender(answer)


async def _lines(first: GenerateEvent, events: Events) -> AsyncIterator[bytes]:
    yield _line(first)
    async for event in events:
        yield _line(event)


def _line(event: GenerateEvent) -> bytes:
    return event.model_dump_json(exclude=None if event.prompt_media else _PROMPT_MEDIA).encode() + b"\n"


class _RequireToken:
    """Checked before the body is read, and without the cost of a response-wrapping middleware."""

    def __init__(self, app: ASGIApp, tokens: Tokens, metrics_tokens: Tokens) -> None:
        self._app = app
        self._tokens = tokens
        self._metrics_tokens = metrics_tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/healthz" and not self._admits(scope):
            refusal = Unauthenticated("the sampler wants its token: Authorization: Bearer …")
            await error_response(refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return self._tokens.accept(given) or (scope["path"] == "/metrics" and self._metrics_tokens.accept(given))


async def _answer_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HeadwayError)
    return error_response(error)


async def _answer_validation_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [f"{'.'.join(str(step) for step in e['loc'][1:]) or 'body'}: {e['msg']}" for e in error.errors()]
    return error_response(InvalidRequest("; ".join(problems)))
