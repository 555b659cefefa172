"""While the database is away, requests are told to come back: nothing is wrong with them."""

from __future__ import annotations

import uuid

import httpx
import psycopg
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from server.http.errors import install_error_handlers
from server.http.problem import ErrorBody, problem
from server.protocols.openai.shared.errors import openai_error
from store.database import AsyncDatabase, Database, normalise_url

SENTENCE = "the database does not answer at the moment; try again"
AWAY = {
    "statement": OperationalError("SELECT", {}, psycopg.OperationalError("terminating connection")),
    "connection": InterfaceError("SELECT", {}, psycopg.InterfaceError("closed")),
    "pool": PoolTimeout("QueuePool limit"),
    "driver": psycopg.OperationalError("connection refused"),
}


async def ask(error: Exception | None, path: str, shape: ErrorBody = problem) -> httpx.Response:
    app = FastAPI()
    install_error_handlers(app, unrouted=shape)

    @app.get(path)
    async def failing() -> None:
        if error:
            raise error
        async with AsyncDatabase("postgresql://nobody@127.0.0.1:1/none").session() as session:
            await session.execute(text("SELECT 1"))

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        return await client.get(path)


@pytest.mark.parametrize("case", AWAY)
async def test_a_request_is_told_to_come_back(case):
    reply = await ask(AWAY[case], "/v2/jobs")
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "2")
    assert reply.json() == {"detail": SENTENCE, "code": "unavailable"}


LACKS = psycopg.errors.InsufficientPrivilege("permission denied for table models")
STANDBY = psycopg.errors.ReadOnlySqlTransaction("cannot execute INSERT in a read-only transaction")


@pytest.mark.parametrize(
    "error", [LACKS, STANDBY, ProgrammingError("SELECT", {}, LACKS), InternalError("", {}, STANDBY)]
)
async def test_what_the_database_refuses_a_server_is_no_fault_of_the_request(error: Exception):
    reply = await ask(error, "/v2/jobs")
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "2")
    assert reply.json()["detail"].startswith("the database refuses the server what it needs")
    assert "models" not in reply.text, "the log says so"


async def test_the_gateway_says_so_as_openai_would():
    reply = await ask(AWAY["statement"], "/v1/chat/completions", openai_error)
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "2")
    assert reply.json()["error"]["message"] == reply.json()["detail"] == SENTENCE


async def test_a_database_that_refuses_connections_is_away():
    assert (await ask(None, "/v2/jobs")).status_code == 503


async def test_a_database_that_is_full_is_said_to_be_full(postgres_url: str, database: Database):
    name = f"full_{uuid.uuid4().hex}"
    with database.session() as session:
        session.execute(text(f"create role {name} login connection limit 0 password 'secret'"))
    url = normalise_url(postgres_url).set(username=name, password="secret")
    full = AsyncDatabase(url.render_as_string(hide_password=False))
    try:
        with pytest.raises(OperationalError) as refused:
            async with full.session() as session:
                await session.execute(text("select 1"))
    finally:
        await full.close()
        with database.session() as session:
            session.execute(text(f"drop role {name}"))
    reply = await ask(refused.value, "/v2/jobs")
    assert reply.status_code == 503
    assert reply.json()["detail"] == "PostgreSQL has no free connection (max_connections) at the moment; try again"
