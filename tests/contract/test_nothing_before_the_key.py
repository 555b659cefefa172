"""On every route, not a byte of the body is read before a live key with the right scope was found."""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import BaseModel, TypeAdapter
from sqlalchemy import text

from server.app import create_app
from server.audit.recording import COMMAND_LINE
from server.auth.issuing import Grant, issue
from server.auth.service import ensure_team
from server.http.authentication import CallerDep
from server.http.picture_bodies import UPLOAD_WITH_PICTURES
from server.http.request_body import COUNTED_BY_ITS_READER, OPEN_TO_ANYBODY, SMALL, UPLOAD, BodyBound, SealedBodies
from server.http.routing import KeyedRoute, KeyedRouter, bound_of
from server.pages.shared.sessions import start_session
from server.pages.shared.signing_in import COOKIE
from server.principals.roles import SCOPES
from server.process.settings import Limits, PictureSettings, ServerSettings
from server.protocols.hud.pictures import ONE_PICTURE
from server.protocols.hud.training import schemas as wire_training
from server.protocols.openai.prompt_bodies import MANY_PROMPTS, ONE_PROMPT
from server.protocols.tinker.training.bodies import BATCH
from store.database import AsyncDatabase
from tests.contract.conftest import LIMITS
from tests.contract.test_access import PUBLIC, ROUTES, SHOWN_BY_THE_FRAMEWORK, SUFFICES
from wire.bounded import few_entries
from wire.pictures import PictureLimits

OPEN = {
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/readyz/server"),
    ("GET", "/api/v1/healthz"),
    ("GET", "/api/v1/files/{token}/{file_name}"),
    ("GET", "/login"),
    ("POST", "/login"),
    ("GET", "/static/{version}/{path:path}"),
    ("GET", "/help/pictures/{name}"),
    ("POST", "/sdk-events/cli"),
    ("POST", "/v3/api/sdk-events/cli"),
}
"""Routes that ask for no key. What they are sent is at most 8 KiB long."""
BY_LINK = {("PUT", "/v2/builds/{build_id}/archive")}
"""Routes whose address is the credential: without it there is nothing."""
PICTURES = -(-PictureLimits().bytes_in_all // 3) * 4
LARGE: dict[str, BodyBound] = {
    "/chat/completions": ONE_PROMPT,
    "/v1/chat/completions": ONE_PROMPT,
    "/completions": MANY_PROMPTS,
    "/v1/completions": MANY_PROMPTS,
    "/responses": UPLOAD_WITH_PICTURES,
    "/v1/responses": UPLOAD_WITH_PICTURES,
    "/v1/messages": UPLOAD_WITH_PICTURES,
    "/v1/messages/count_tokens": UPLOAD_WITH_PICTURES,
    "/v1beta/models/{upstream}:generateContent": UPLOAD,
    "/v1beta/models/{upstream}:streamGenerateContent": UPLOAD,
    "/trace/{trace_id}/telemetry-upload": UPLOAD_WITH_PICTURES,
    "/v3/api/trace/{trace_id}/telemetry-upload": UPLOAD_WITH_PICTURES,
    "/v2/pictures": ONE_PICTURE,
    "/v2/tasks/upload": UPLOAD,
    "/v2/rollouts/submit": UPLOAD,
    "/runner/{runner_id}/heartbeat": UPLOAD,
    "/runner/{runner_id}/placements/{placement_id}/log": UPLOAD,
    "/runner/{runner_id}/placements/{placement_id}/end": UPLOAD,
    "/api/v1/telemetry": UPLOAD,
    "/api/v1/asample": UPLOAD_WITH_PICTURES,
    "/api/v1/forward_backward": BATCH,
    "/api/v1/forward": BATCH,
    "/training/jobs": UPLOAD,
    "/v1/training/jobs": UPLOAD,
    "/tasks/upload": UPLOAD,
    "/tasks/resolve-evalset": UPLOAD,
    "/v1/rollouts/run_list": UPLOAD,
    "/v1/files": COUNTED_BY_ITS_READER,
    "/v2/traces/import": COUNTED_BY_ITS_READER,
    "/api/v1/external_weights_upload": COUNTED_BY_ITS_READER,
    "/v2/builds/{build_id}/archive": COUNTED_BY_ITS_READER,
}
HTML, JSON = (b"accept", b"text/html"), (b"content-type", b"application/json")

Route = tuple[str, str]


@dataclass
class Tried:
    """What a request came to: how often its body was asked for, and what was answered."""

    num_reads: int = 0
    num_bytes: int = 0
    status: int = 0


async def tried(
    app: Any, route: Route, headers: list[tuple[bytes, bytes]], body: bytes = b"{}", pieces: int = 1
) -> Tried:
    """Send `body` so many times to a route, as far as it is asked for."""
    outcome = Tried()

    async def receive() -> dict[str, Any]:
        outcome.num_reads += 1
        if outcome.num_reads > pieces:
            await asyncio.sleep(3600)
        outcome.num_bytes += len(body)
        return {"type": "http.request", "body": body, "more_body": outcome.num_reads < pieces}

    async def send(message: dict[str, Any]) -> None:
        outcome.status = message.get("status", outcome.status)

    method, path = route
    path = re.sub(r"\{[a-z_]+(:path)?\}", str(uuid.uuid4()), path).partition("?")[0]
    scope = {"type": "http", "http_version": "1.1", "method": method, "path": path, "raw_path": path.encode()}
    scope |= {"query_string": b"", "headers": [(b"host", b"here"), *headers], "root_path": "", "scheme": "http"}
    scope |= {"client": ("127.0.0.1", 1), "server": ("here", 80), "state": {}}
    with contextlib.suppress(Exception):  # which was answered with a 500, and is raised once more for the server's log
        await app(scope, receive, send)
    return outcome


def routes_of(app: FastAPI) -> Iterator[tuple[Route, APIRoute]]:
    """All but the framework's own pages."""
    for context in iter_route_contexts(app.routes):
        if isinstance(context.original_route, APIRoute) and context.path not in SHOWN_BY_THE_FRAMEWORK:
            for method in sorted(context.methods or ()):
                yield (method, str(context.path)), context.original_route


def is_page(route: APIRoute) -> bool:
    return route.endpoint.__module__.startswith("server.pages.") and "/static/" not in route.path


def bearer(key: str) -> list[tuple[bytes, bytes]]:
    return [JSON, (b"authorization", f"Bearer {key}".encode())]


STRANGERS = ([JSON], bearer("hw_nobody-knows-this-one"), [JSON, (b"x-api-key", b"hw_neither-this-one")])
VISITORS = ([HTML], [HTML, (b"cookie", f"{COOKIE}=nobody".encode())])


@dataclass(frozen=True, slots=True)
class WithoutAKey:
    """What a route answered somebody who has no key or an unknown one, and those who have no session either."""

    route: Route
    is_page: bool
    strangers: list[Tried]
    visitors: list[Tried]

    @property
    def is_read(self) -> bool:
        """Whether it asked for a body."""
        return any(outcome.num_reads for outcome in (*self.strangers, *self.visitors))


async def asked_without_a_key(app: FastAPI) -> list[WithoutAKey]:
    """Every route but the open ones."""
    asked = list[WithoutAKey]()
    for route, made in routes_of(app):
        if route not in OPEN:
            strangers = [await tried(app, route, headers) for headers in STRANGERS]
            visitors = [await tried(app, route, headers) for headers in VISITORS]
            asked.append(WithoutAKey(route, is_page(made), strangers, visitors))
    return asked


@pytest.fixture(scope="module")
async def app(database_url: str, base, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FastAPI]:
    """Asked without a server between."""
    blobs: Path = tmp_path_factory.mktemp("sealed")
    app = create_app(ServerSettings(database_url, f"file://{blobs}", "token", limits=LIMITS))
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture(scope="module")
async def keys(database: AsyncDatabase) -> dict[str, str]:
    """A key for each scope, with that one alone."""
    async with database.session() as session:
        team_id = await ensure_team(session, f"sealed-{uuid.uuid4().hex[:8]}")
        return {
            scope: (await issue(session, team_id, Grant(scope, "admin", frozenset({scope})), COMMAND_LINE))[0]
            for scope in SCOPES
        }


@pytest.fixture(scope="module")
async def without_a_key(app: FastAPI) -> list[WithoutAKey]:
    """Of the service."""
    asked = await asked_without_a_key(app)
    assert len(asked) > 200
    return asked


async def test_nobody_s_body_is_read_before_a_live_key_was_found(without_a_key):
    assert not [asked.route for asked in without_a_key if asked.is_read]


async def test_strangers_are_told_that_they_need_a_key(without_a_key):
    for asked in without_a_key:
        if not asked.is_page:
            expected = 404 if asked.route in BY_LINK else 401
            assert {outcome.status for outcome in asked.strangers} == {expected}, asked.route


async def test_no_body_is_read_before_the_key_is_known_to_have_the_scope(app, keys):
    tries = 0
    for (method, path), (needs, body) in ROUTES.items():
        for scope in set(SCOPES) - SUFFICES.get(needs, set(SCOPES)):
            if body is None and method == "GET":
                continue
            outcome = await tried(app, (method, path), bearer(keys[scope]))
            assert (outcome.status, outcome.num_reads) == (403, 0), (method, path, scope)
            tries += 1
    assert tries > 100


async def test_no_form_is_read_before_the_session_is_known_to_have_the_scope(app, keys, database):
    async with database.session() as session:
        cookie = await start_session(session, keys["read"])
    signed_in = [HTML, (b"cookie", f"{COOKIE}={cookie}".encode())]
    forms = [(route, made) for route, made in routes_of(app) if is_page(made) and route[0] == "POST"]
    refused = [route for route, _ in forms if route not in (*OPEN, ("POST", "/logout"))]
    assert len(refused) > 10
    for route in refused:
        outcome = await tried(app, route, signed_in)
        assert (outcome.status, outcome.num_reads) == (403, 0), route
    assert (await tried(app, ("POST", "/logout"), signed_in)).num_reads == 1


async def test_whoever_may_is_heard(app, keys):
    heard = 0
    for (method, path), (needs, body) in ROUTES.items():
        if needs != PUBLIC and body is not None and method in ("POST", "PUT", "PATCH") and "/train/" not in path:
            scope = min(SUFFICES[needs])
            heard += (await tried(app, (method, path), bearer(keys[scope]))).num_reads > 0
    assert heard > 20


async def test_routes_that_ask_for_no_key_take_eight_kilobytes(app):
    assert Limits().open_body_bytes == 8 * 1024
    for route, made in routes_of(app):
        assert (bound_of(made) is OPEN_TO_ANYBODY) == (route in OPEN), route
    for route in sorted(OPEN):
        outcome = await tried(app, route, [HTML], b"x" * 4096, pieces=100)
        assert outcome.num_bytes <= 3 * 4096, route
    too_long = await tried(app, ("POST", "/login"), [HTML], b"key=" + b"x" * 4096, pieces=100)
    assert too_long.status == 413


def test_every_route_of_ours_admits_before_it_reads(tmp_path):
    for route, made in routes_of(
        create_app(ServerSettings("postgresql://nowhere/nothing", f"file://{tmp_path}", "token"))
    ):
        assert isinstance(made, KeyedRoute), route


def test_every_body_has_the_bound_that_stands_beside_its_route(tmp_path):
    for route, made in routes_of(
        create_app(ServerSettings("postgresql://nowhere/nothing", f"file://{tmp_path}", "token"))
    ):
        usual = OPEN_TO_ANYBODY if route in OPEN else SMALL
        assert bound_of(made) is (usual if route[0] == "GET" else LARGE.get(route[1], usual)), route


async def test_an_announced_body_over_the_bound_is_refused_unread(app, keys):
    for path in ("/v2/models/fork", "/v2/tasks/upload", "/v1/models/x/pause"):
        length = (b"content-length", b"1000000000")
        outcome = await tried(app, ("POST", path), [*bearer(keys["train"]), length])
        assert outcome.num_reads == 0
        assert outcome.status in (413, 404)


@pytest.mark.parametrize(
    ("bound", "info", "most"),
    [
        (ONE_PROMPT, """'{"context_length": 1000}'""", 1024**2 + 1000 * 256),
        (MANY_PROMPTS, """'{"context_length": 1000}'""", 1024**2 + 128 * 1000 * 256),
        (MANY_PROMPTS, """'{"context_length": 1000000}'""", Limits().body_bytes),
        (ONE_PROMPT, "null", Limits().body_bytes),
        (ONE_PROMPT, """'{"context_length": 1000, "pictures": null}'""", 1024**2 + 1000 * 256),
        (ONE_PROMPT, """'{"context_length": 1000, "pictures": {"kind": "fixed"}}'""", 1024**2 + 1000 * 256 + PICTURES),
        (MANY_PROMPTS, """'{"context_length": 1000, "pictures": {}}'""", 1024**2 + 128 * 1000 * 256),
        (UPLOAD_WITH_PICTURES, "null", Limits().body_bytes),
        (UPLOAD_WITH_PICTURES, """'{"context_length": 1000, "pictures": {}}'""", Limits().body_bytes + PICTURES),
    ],
)
async def test_a_prompt_may_be_as_long_as_the_largest_base_has_room_for_with_pictures(
    bound, info, most, base, database
):
    async with database.session() as session:
        await session.execute(text(f"update models set info = {info} where team_id is null"))

        @contextlib.asynccontextmanager
        async def session_of_the_test() -> AsyncIterator[Any]:
            yield session

        database = SimpleNamespace(session=session_of_the_test)
        settings = SimpleNamespace(limits=Limits(), pictures=PictureSettings())
        context = SimpleNamespace(settings=settings, database=database)
        app: Any = SimpleNamespace(state=SimpleNamespace(context=context))
        assert await bound.more(Request({"type": "http", "app": app, "headers": []})) == most
        await session.rollback()


# What the walk notices.


class Anything(BaseModel):
    x: int = 0


def leaky_app() -> FastAPI:
    """A route that the framework reads before its dependencies are asked."""
    app = FastAPI()

    @app.post("/leaky")
    async def leaky(caller: CallerDep, body: Anything) -> None:
        """Never reached."""

    return app


async def test_a_route_that_reads_before_the_key_is_noticed():
    (leaky,) = await asked_without_a_key(leaky_app())
    assert (leaky.route, leaky.is_read) == (("POST", "/leaky"), True)


async def test_a_body_that_no_route_opened_stays_sealed():
    app = leaky_app()
    app.add_middleware(SealedBodies, limits=LIMITS)
    outcome = await tried(app, ("POST", "/leaky"), bearer("x"))
    assert (outcome.num_reads, outcome.status) == (0, 400)


def test_a_route_that_does_not_say_who_may_call_it_cannot_be_made():
    router = KeyedRouter()
    with pytest.raises(TypeError, match="does not say who may call it"):

        @router.post("/anything")
        async def anything(body: Anything) -> None:
            """Never made."""


# Validation ends at the first fault.


def unbounded(node: Any, within: bool = False) -> Iterator[str]:
    """Kinds of lists and mappings in a pydantic core schema that would go on after a fault."""
    if isinstance(node, list | tuple):
        for item in node:
            yield from unbounded(item)
    if not isinstance(node, dict):
        return
    kind, validator = node.get("type"), node.get("function")
    is_few = isinstance(validator, dict) and validator["function"] is few_entries
    values = node.get("items_schema") or node.get("values_schema") or {"type": "any"}
    is_bounded = values["type"] == "any" or node.get("fail_fast") or within
    if kind in ("list", "set", "tuple", "frozenset", "dict") and not is_bounded:
        yield f"{kind} of {values['type']}"
    for name, value in node.items():
        if name not in ("metadata", "serialization"):
            yield from unbounded(value, within=is_few and name == "schema")


def test_lists_and_mappings_of_requests_are_refused_at_their_first_fault(tmp_path):
    app = create_app(ServerSettings("postgresql://nowhere/nothing", f"file://{tmp_path}", "token"))
    models: set[Any] = {made.body_field.field_info.annotation for _, made in routes_of(app) if made.body_field}
    models |= {wire_training.ForwardBackwardRequest, wire_training.ForwardRequest, wire_training.BackwardRequest}
    assert len(models) > 15
    for model in models:
        assert not list(unbounded(TypeAdapter(model).core_schema)), model


def test_a_list_that_collects_faults_is_noticed():
    class Collecting(BaseModel):
        numbers: list[int]

    assert list(unbounded(TypeAdapter(Collecting).core_schema)) == ["list of int"]
