"""A protocol is a row of a table: its routes, and the shape of its refusals, which the route that was chosen names."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel

from server.http.access import ANYBODY
from server.http.errors import install_error_handlers
from server.http.problem import ErrorBody
from server.http.protocol import Protocol, serve_protocols
from server.http.request_body import SealedBodies
from server.http.routing import KeyedRoute, KeyedRouter
from server.process.settings import Limits
from wire.errors import Conflict


def toy_error(status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    return {"toy": code, "field": param}


def unrouted_error(status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    return {"nobody": code}


class ToyRefusal(BaseModel):
    toy: str
    field: str | None


class ToyRoute(KeyedRoute):
    error_body: ClassVar[ErrorBody] = staticmethod(toy_error)


def raising(router: KeyedRouter, path: str, who: list[str], name: str) -> KeyedRouter:
    @router.get(path, dependencies=[ANYBODY])
    async def refuse(number: int = 0) -> None:
        who.append(name)
        if number:
            raise RuntimeError(name)
        raise Conflict(name)

    return router


def app_of(*protocols: Protocol) -> FastAPI:
    app = FastAPI()
    install_error_handlers(app, unrouted=unrouted_error)
    app.add_middleware(SealedBodies, limits=Limits())
    serve_protocols(app, protocols)
    return app


@pytest.fixture
def client() -> TestClient:
    toy = raising(KeyedRouter(route_class=ToyRoute), "/toy", [], "toy")
    plain = raising(KeyedRouter(), "/plain", [], "plain")
    app = app_of(Protocol((toy,), refusal=ToyRefusal), Protocol((plain,)))
    return TestClient(app, raise_server_exceptions=False)


def test_the_route_names_the_shape_of_a_refusal(client: TestClient):
    assert client.get("/toy").json() == {"toy": "conflict", "field": None}
    assert client.get("/toy?number=x").json() == {"toy": "invalid_request", "field": "number"}
    assert client.get("/toy?number=1").json() == {"toy": "internal", "field": None}
    assert client.get("/plain").json() == {"detail": "plain", "code": "conflict"}


def test_what_no_route_serves_is_refused_in_the_shape_that_the_app_was_given(client: TestClient):
    assert client.get("/nowhere").json().keys() == {"detail", "code"}
    assert client.get("/nowhere", headers={"X-API-Key": "hw_x"}).json() == {"nobody": "not_found"}
    assert client.post("/toy", headers={"X-API-Key": "hw_x"}).json() == {"nobody": "invalid_request"}


def test_the_document_shows_each_protocols_refusal(client: TestClient):
    paths = client.get("/openapi.json").json()["paths"]
    shown = {path: paths[path]["get"]["responses"]["default"]["content"] for path in ("/toy", "/plain")}
    assert "ToyRefusal" in str(shown["/toy"])
    assert "Problem" in str(shown["/plain"])


def test_routes_of_all_protocols_are_tried_first_ones_before_and_last_ones_after_the_rest():
    asked = list[str]()
    one = Protocol(
        (raising(KeyedRouter(), "/a", asked, "one"),), last=(raising(KeyedRouter(), "/{path:path}", asked, "last"),)
    )
    two = Protocol(
        (raising(KeyedRouter(), "/a", asked, "two"), raising(KeyedRouter(), "/c", asked, "two")),
        first=(raising(KeyedRouter(), "/b", asked, "first"),),
    )
    shadowed = Protocol((raising(KeyedRouter(), "/b", asked, "shadowed"),))
    client = TestClient(app_of(shadowed, one, two))
    for path in ("/a", "/b", "/c", "/d"):
        client.get(path)
    assert asked == ["one", "first", "two", "last"]
