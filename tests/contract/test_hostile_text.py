"""What PostgreSQL cannot hold or compare, in every place where a client's text may reach it: never a 500."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts

from server.app import create_app
from server.audit.recording import COMMAND_LINE
from server.auth.issuing import Grant, issue
from server.auth.service import ensure_team
from server.process.settings import ServerSettings
from wire.cursors import make_cursor

NOW, ID = datetime.now(UTC), uuid.uuid4()
HOSTILE = {
    "NUL": "a%00b",
    "half a surrogate pair": "%ED%A0%80",
    "a huge number": "9" * 40,
    "a NUL in a cursor": make_cursor("a\0b", ID),
}
MORE = {
    "NUL alone": "%00",
    "no UTF-8": "%FF",
    "a small number": "-" + "9" * 40,
    "no number": "nan",
    "the last day": "9999-12-31T23:59:59-14:00",
    "the first day": "0001-01-01T00:00:00%2B14:00",
    "a NUL in a short cursor": make_cursor("a\0b"),
    "a NUL in a cursor after a time": make_cursor(NOW, "a\0b"),
    "a number beyond all in a cursor": make_cursor(2**63 - 1, ID),
    "the last day in a cursor": make_cursor(datetime(9000, 1, 1, tzinfo=UTC), ID),
}
HEADERS = ("Trace-Id", "Idempotency-Key", "X-Request-Id", "traceparent", "Accept", "If-None-Match", "Cookie", "Range")


def gets() -> Iterator[tuple[str, APIRoute]]:
    settings = ServerSettings("postgresql://nowhere/x", "file:///nowhere", "token")
    for route in iter_route_contexts(create_app(settings).routes):
        if route.path and "GET" in (route.methods or ()) and isinstance(route.original_route, APIRoute):
            yield route.path, route.original_route


GETS = list(gets())
PAGES = [(path, route) for path, route in GETS if route.endpoint.__module__.startswith("server.pages.")]


def parameters(dependant: Dependant) -> Iterator[tuple[str, str, bool]]:
    """(place, name, whether it must be there) of all that a route takes from its URL, its dependencies' included."""
    for place, fields in (("path", dependant.path_params), ("query", dependant.query_params)):
        for field in fields:
            yield place, field.alias, field.field_info.is_required()
    for inner in dependant.dependencies:
        yield from parameters(inner)


def hostile_urls(path: str, route: APIRoute, things: dict[str, str], values: dict[str, str]) -> Iterator[str]:
    """One hostile value in one place each, the others being good."""
    found = dict.fromkeys(parameters(route.dependant))
    good = {(place, name): things.get(name, "x") for place, name, is_needed in found if is_needed}
    for place, name, _ in found:
        for value in values.values():
            yield filled(path, {**good, (place, name): value})


def filled(path: str, values: dict[tuple[str, str], str]) -> str:
    for (place, name), value in values.items():
        if place == "path":
            path = re.sub(rf"\{{{name}(:path)?\}}", lambda _, value=value: value, path)
    return path + "?" + "&".join(f"{name}={value}" for (place, name), value in values.items() if place == "query")


@pytest.fixture(scope="module")
async def operator(origin: str, database) -> dict[str, str]:
    """The headers of a key behind which everything is open."""
    async with database.session() as session:
        team_id = await ensure_team(session, f"hostile-{uuid.uuid4().hex[:8]}")
        key, _ = await issue(session, team_id, Grant("hostile", "admin"), COMMAND_LINE)
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
async def things(origin: str, operator: dict[str, str], base) -> dict[str, str]:
    """What path parameters may name, so that what follows them is looked at."""
    job, trace = uuid.uuid4().hex, uuid.uuid4().hex
    async with httpx.AsyncClient(base_url=origin, trust_env=False, headers=operator) as http:
        fork = await http.post("/v2/models/fork", json={"source_model_id": str(base.id), "name": "hostile"})
        model = fork.json()["id"]
        assert (await http.post(f"/v2/trace/job/{job}/enter", json={"name": "hostile"})).is_success
        assert (await http.post(f"/v2/trace/{trace}/enter", json={"job_id": job, "model": model})).is_success
        taskset = (await http.post("/v2/tasksets", json={"name": "hostile"})).json()["id"]
    return {
        "job_id": job,
        "trace_id": trace,
        "model": model,
        "model_id": model,
        "taskset_id": taskset,
        "name": "hostile",
    }


@pytest.fixture(scope="module")
async def api(origin: str, operator: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=origin, headers=operator, timeout=60, trust_env=False) as http:
        yield http


@pytest.fixture(scope="module")
async def browser(origin: str, operator: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Accept": "text/html"}
    async with httpx.AsyncClient(base_url=origin, headers=headers, timeout=60, trust_env=False) as http:
        key = operator["Authorization"].removeprefix("Bearer ")
        assert (await http.post("/login", data={"key": key})).status_code == 303
        yield http


async def broken(http: httpx.AsyncClient, urls: list[str]) -> list[str]:
    """Those that a 500 answers, or nobody."""
    found, turns = list[str](), asyncio.Semaphore(8)

    async def ask(url: str) -> None:
        async with turns:
            try:
                reply = await http.get(httpx.URL(url))
            except httpx.TransportError as error:  # an answer that was broken off
                found.append(f"{error!r} {url}")
                return
        if reply.status_code >= 500 and not url.startswith("/readyz"):
            found.append(f"{reply.status_code} {url} {reply.text[:200]}")

    await asyncio.gather(*map(ask, urls))
    return found


SETS = [pytest.param(HOSTILE, id="a few"), pytest.param(MORE, id="more", marks=pytest.mark.slow)]


@pytest.mark.parametrize("values", SETS)
async def test_no_path_or_query_is_answered_with_a_server_error(api, things, values):
    """Pages leave whoever shows a key to others: one value for each of their places is enough."""
    name = next(iter(values))
    of_pages = [url for path, route in PAGES for url in hostile_urls(path, route, things, {name: values[name]})]
    others = [(path, route) for path, route in GETS if (path, route) not in PAGES]
    urls = [url for path, route in others for url in hostile_urls(path, route, things, values)]
    assert len(urls) > 50 * len(values)
    assert len(of_pages) > 50
    urls += of_pages
    assert await broken(api, urls) == []


@pytest.mark.parametrize("values", SETS)
async def test_no_path_or_query_of_a_page_is_answered_with_a_server_error(browser, things, values):
    urls = [url for path, route in PAGES for url in hostile_urls(path, route, things, values)]
    assert len(urls) > 50 * len(values)
    assert await broken(browser, urls) == []


async def test_no_header_is_answered_with_a_server_error(api, things):
    for name in HEADERS:
        for value in ("\x7f", "é".encode().decode("latin-1"), "9" * 40):
            headers = {name: value.encode("latin-1")}
            for path in ("/v2/models", f"/v2/models/{things['model']}", "/v2/auth/me"):
                assert (await api.get(path, headers=headers)).status_code < 500, (name, value)


TEXTS = ["\0", "a\0b", "\ud800", "\U0010ffff", 10**40, -(10**40), 1e308, [], {}, None, True, [["\0"]], {"\0": "\0"}]


@pytest.mark.slow
async def test_no_body_is_answered_with_a_server_error(api, things):
    """Every field of every JSON body, one hostile value each, the others being left out or good."""
    document = (await api.get("/openapi.json")).json()
    found = list[str]()
    for path, method, schema in bodies(document):
        url = filled(path, {("path", name): value for name, value in things.items()})
        for field in schema.get("properties", {}):
            for value in TEXTS:
                body = {
                    **{name: good(schema["properties"][name], things) for name in schema.get("required", ())},
                    field: value,
                }
                content = json.dumps(body).encode()
                reply = await api.request(method, url, content=content, headers={"Content-Type": "application/json"})
                if reply.status_code >= 500 and reply.status_code != 503:
                    found.append(f"{reply.status_code} {method} {url} {field} {value!r} {reply.text[:200]}")
    assert found == []


def bodies(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(path, method, schema of the JSON body) of each operation that takes an object, but those that would wait."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            reference = schema.get("$ref") or next(
                (one["$ref"] for one in schema.get("anyOf", ()) if "$ref" in one), None
            )
            if reference is not None and "/train/" not in path:
                yield path, method, document["components"]["schemas"][reference.rpartition("/")[2]]


def good(schema: dict[str, Any], things: dict[str, str]) -> Any:
    kind = schema.get("type") or next((one.get("type") for one in schema.get("anyOf", ())), "string")
    by_kind = {"string": things["model"], "integer": 1, "number": 1.0, "array": [], "object": {}, "boolean": True}
    return by_kind.get(kind, things["model"])
