"""schemathesis over the whole OpenAPI description: no answer is a server error, and none breaks its schema.

`make test` tries a few examples of each operation; `make test-slow` many, with keys of several roles:
SCHEMA_EXAMPLES=200 says how many.
"""

from __future__ import annotations

import asyncio
import os
import traceback
import uuid
import zlib
from typing import Any

import httpx
import pytest
import requests
import schemathesis
import schemathesis.specs.openapi.schemas  # here: Python 3.11 parses badly while another thread parses
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from server.audit.recording import COMMAND_LINE
from server.auth.issuing import Grant, issue
from server.auth.service import ensure_team
from server.principals.roles import ROLES


@schemathesis.serializer("application/x-ndjson", "application/x-tar", "application/gzip")
def _lines(_context: Any, value: Any) -> bytes:
    return str(value).encode("utf-8", "replace")


NUM_EXAMPLES = 2
MANY_EXAMPLES = int(os.environ.get("SCHEMA_EXAMPLES", "50"))
CONFORMS = (status_code_conformance, content_type_conformance, response_schema_conformance)
UNREADY = 503
"""`/readyz` says so by design, and so does a chat with a base that an earlier request registered: nobody serves it."""

BOUNDED = settings(
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
async def keys(origin: str, database) -> dict[str, str]:
    """By role, all of one team. An operator's: everything is behind an open door."""
    async with database.session() as session:
        team_id = await ensure_team(session, f"fuzz-{uuid.uuid4().hex[:8]}")
        return {role: (await issue(session, team_id, Grant("fuzz", role), COMMAND_LINE))[0] for role in ROLES}


@pytest.fixture(scope="module")
async def things(origin: str, keys: dict[str, str], base) -> dict[str, str]:
    """Path parameters that name something of the team's."""
    headers = {"Authorization": f"Bearer {keys['admin']}"}
    found = {name: uuid.uuid4().hex for name in ("job_id", "trace_id")}
    async with httpx.AsyncClient(base_url=origin, trust_env=False, headers=headers) as http:

        async def post(path: str, body: dict[str, Any]) -> Any:
            reply = await http.post(path, json=body)
            assert reply.is_success, reply.text
            return reply.json()

        model_id = (await post("/v2/models/fork", {"source_model_id": str(base.id), "name": "fuzzed"}))["id"]
        await post(f"/v2/trace/job/{found['job_id']}/enter", {"name": "fuzzed"})
        await post(f"/v2/trace/{found['trace_id']}/enter", {"job_id": found["job_id"], "model": model_id})
        taskset = await post("/v2/tasksets", {"name": "fuzzed"})
    return {**found, "model": model_id, "model_id": model_id, "taskset_id": taskset["id"], "name": "fuzzed"}


@pytest.fixture(scope="module")
async def document(origin: str) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=origin, trust_env=False) as http:
        return (await http.get("/openapi.json")).json()


async def test_every_answer_is_as_described_with_a_key_and_without(origin, document, keys, things):
    roles = ("admin", None)
    failures = await asyncio.to_thread(_try_all, document, origin, _headers(keys, *roles), things, NUM_EXAMPLES)
    assert not failures, "\n\n".join(failures)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("role", ["admin", "member", None])
async def test_every_answer_to_many_requests_is_as_described(origin, document, keys, things, role):
    failures = await asyncio.to_thread(_try_all, document, origin, _headers(keys, role), things, MANY_EXAMPLES)
    assert not failures, "\n\n".join(failures)


async def test_an_answer_that_is_not_as_described_is_noticed(origin, document, keys, things):
    answer = document["paths"]["/v2/auth/me"]["get"]["responses"]["200"]["content"]["application/json"]
    wrong = {"application/json": {"schema": {"allOf": [answer["schema"], {"required": ["no such field"]}]}}}
    me = {"get": {"responses": {"200": {"description": "", "content": wrong}}}}
    lying = {**document, "paths": {"/v2/auth/me": me}}
    failures = await asyncio.to_thread(_try_all, lying, origin, _headers(keys, "admin"), things, 1)
    assert len(failures) == 1
    assert "no such field" in failures[0]


def test_every_operation_is_described(document):
    described = [(path, method) for path, methods in document["paths"].items() for method in methods]
    assert len(described) > 50
    undescribed = list[str]()
    for path, method in described:
        responses = document["paths"][path][method]["responses"]
        done = [answer for status, answer in responses.items() if status in ("200", "201")]
        if not all(media.get("schema") for answer in done for media in answer.get("content", {}).values()):
            undescribed.append(f"{method} {path}")
        assert "default" in responses, f"{method} {path} does not say how it refuses"
    assert not undescribed, "these do not say what they answer"


def _headers(keys: dict[str, str], *roles: str | None) -> list[dict[str, str]]:
    """Of a client for each role; None: of one without a key."""
    return [{"Authorization": f"Bearer {keys[role]}"} if role else {} for role in roles]


def _try_all(
    document: dict[str, Any], origin: str, clients: list[dict[str, str]], things: dict[str, str], num_examples: int
) -> list[str]:
    """Each client sends every example; what was not as described."""
    with requests.Session() as session:
        return _tried(document, origin, session, clients, things, num_examples)


def _tried(
    document: dict[str, Any],
    origin: str,
    session: requests.Session,
    clients: list[dict[str, str]],
    things: dict[str, str],
    num_examples: int,
) -> list[str]:
    config = SchemathesisConfig.from_dict({"generation": {"with-security-parameters": False}})
    schema = schemathesis.openapi.from_dict(document, config=config)
    failures = list[str]()
    for result in schema.get_all_operations():
        operation = result.ok()

        @seed(1)
        @settings(BOUNDED, max_examples=num_examples)
        @given(case=operation.as_strategy())
        def answers_as_described(case: Any) -> None:
            for name in things.keys() & (case.path_parameters or {}).keys():
                if zlib.crc32(str(case.path_parameters[name]).encode("utf-8", "replace")) % 2:
                    case.path_parameters[name] = things[name]
            for headers in clients:
                response = case.call(base_url=origin, headers=headers, timeout=20, session=session)
                is_unready = response.status_code == UNREADY and (
                    case.path == "/readyz" or b"no sampler for the base" in response.content
                )
                checks = CONFORMS if is_unready else (not_a_server_error, *CONFORMS)
                case.validate_response(response, checks=checks)

        try:
            answers_as_described()
        except (Exception, BaseExceptionGroup) as error:
            told = "".join(traceback.format_exception(error))
            failures.append(f"{operation.method.upper()} {operation.path}: {told}")
    return failures
