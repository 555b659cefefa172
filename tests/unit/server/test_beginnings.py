"""Routers passed over by how a path begins: what answers is the same as without."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from starlette.routing import BaseRoute, Match

from server.app import create_app
from server.http.beginnings import IndexedRouter
from server.http.routing import KeyedRoute
from server.process.settings import ServerSettings


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    return create_app(
        ServerSettings("postgresql://nobody@127.0.0.1:1/d", f"file://{tmp_path_factory.mktemp('b')}", "t")
    )


def answers(app: FastAPI, path: str, method: str, accept: bytes = b"*/*") -> list[tuple[int, Match, Any]]:
    """Which of the app's routes match, in turn, and which endpoint it is."""
    found = list[tuple[int, Match, Any]]()
    for number, route in enumerate(app.router.routes):
        match, inner = route.matches(scope_of(app, path, method, accept))
        if match != Match.NONE:
            found.append((number, match, inner.get("endpoint")))
    return found


def scope_of(app: FastAPI, path: str, method: str, accept: bytes) -> dict[str, Any]:
    headers = [(b"accept", accept)]
    return {"type": "http", "path": path, "method": method, "headers": headers, "query_string": b"", "app": app}


def paths_of(routes: list[BaseRoute]) -> set[str]:
    """Every path that a route names, and some below, above and beside it."""
    named = {path for context in iter_route_contexts(routes) if (path := getattr(context, "path", None))}
    plain = {path.replace("{", "").replace("}", "").replace(":path", "") for path in named}
    return {*plain, *(f"{path}/more" for path in plain), *(path.rpartition("/")[0] for path in plain), "/", "//", ""}


@pytest.mark.parametrize(("method", "accept"), [("GET", b"text/html"), ("POST", b"*/*")])
def test_every_path_is_matched_by_the_same_routes_as_without_an_index(app: FastAPI, method: str, accept: bytes):
    paths = sorted(paths_of(app.router.routes))
    indexed = {path: answers(app, path, method, accept) for path in paths}
    with patch.object(IndexedRouter, "matches", APIRouter.matches):
        plain = {path: answers(app, path, method, accept) for path in paths}
    assert {path: found for path, found in indexed.items() if found != plain[path]} == {}
    assert sum(map(bool, indexed.values())) > len(paths) / 3


def test_few_routes_are_tried_for_a_path_that_comes_late(app: FastAPI):
    def num_tried() -> int:
        with patch.object(KeyedRoute, "matches", autospec=True, return_value=(Match.NONE, {})) as matches:
            answers(app, "/scaling/runners", "GET")
        return matches.call_count

    assert num_tried() < 10
    with patch.object(IndexedRouter, "matches", APIRouter.matches):
        assert num_tried() > 100


def test_a_router_that_is_no_indexed_one_is_always_tried():
    plain, outer, app = APIRouter(), IndexedRouter(), FastAPI()
    plain.add_api_route("/late/{name}", lambda name: name)
    outer.include_router(plain)
    app.include_router(outer)
    assert TestClient(app).get("/late/x").json() == "x"


def test_a_prefix_that_an_included_router_would_not_know_is_refused():
    with pytest.raises(ValueError, match="prefix"):
        IndexedRouter().include_router(APIRouter(), prefix="/under")
    with pytest.raises(ValueError, match="prefix"):
        IndexedRouter(prefix="/under").include_router(APIRouter())


def test_a_route_that_is_added_late_is_found():
    router, app = IndexedRouter(), FastAPI()
    router.add_api_route("/one", lambda: 1)
    app.include_router(router)
    client = TestClient(app)
    assert (client.get("/one").json(), client.get("/two").status_code) == (1, 404)
    router.add_api_route("/two/{what}", lambda what: what)
    assert client.get("/two/x").json() == "x"
