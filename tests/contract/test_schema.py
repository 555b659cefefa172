"""schemathesis over the whole OpenAPI description: no answer is a server error, and none breaks its schema."""

from __future__ import annotations

import asyncio
import traceback
import uuid
from typing import Any

import httpx
import pytest
import schemathesis
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

NUM_EXAMPLES = 2
CONFORMS = (status_code_conformance, content_type_conformance, response_schema_conformance)
UNREADY = 503
"""`/readyz` says so, by design."""

BOUNDED = settings(
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
async def key(origin: str, database) -> str:
    """An operator's, so that everything is behind an open door."""
    async with database.session() as session:
        team_id = await ensure_team(session, f"fuzz-{uuid.uuid4().hex[:8]}")
        return (await issue(session, team_id, Grant("fuzz", "admin"), COMMAND_LINE))[0]


@pytest.fixture(scope="module")
async def model_id(origin: str, key: str, base) -> str:
    body = {"source_model_id": str(base.id), "name": "fuzzed"}
    async with httpx.AsyncClient(base_url=origin, trust_env=False) as http:
        reply = await http.post("/v2/models/fork", json=body, headers={"Authorization": f"Bearer {key}"})
    return reply.json()["id"]


@pytest.fixture(scope="module")
async def document(origin: str) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=origin, trust_env=False) as http:
        return (await http.get("/openapi.json")).json()


@pytest.mark.parametrize("authenticated", [True, False], ids=["with a key", "without"])
async def test_every_answer_is_as_described(origin, document, key, model_id, authenticated):
    """Without a key one example each is enough: nothing is read."""
    headers = {"Authorization": f"Bearer {key}"} if authenticated else {}
    failures = await asyncio.to_thread(
        _try_all, document, origin, headers, model_id, NUM_EXAMPLES if authenticated else 1
    )
    assert not failures, "\n\n".join(failures)


async def test_an_answer_that_is_not_as_described_is_noticed(origin, document, key, model_id):
    answer = document["paths"]["/v2/auth/me"]["get"]["responses"]["200"]["content"]["application/json"]
    wrong = {"application/json": {"schema": {"allOf": [answer["schema"], {"required": ["no such field"]}]}}}
    me = {"get": {"responses": {"200": {"description": "", "content": wrong}}}}
    lying = {**document, "paths": {"/v2/auth/me": me}}
    failures = await asyncio.to_thread(_try_all, lying, origin, {"Authorization": f"Bearer {key}"}, model_id, 1)
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


def _try_all(
    document: dict[str, Any], origin: str, headers: dict[str, str], model_id: str, num_examples: int
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
            for name in ("model_id", "model"):
                if name in (case.path_parameters or {}) and len(str(case.path_parameters[name])) % 2:
                    case.path_parameters[name] = model_id
            response = case.call(base_url=origin, headers=headers, timeout=20)
            is_unready = case.path == "/readyz" and response.status_code == UNREADY
            checks = CONFORMS if is_unready else (not_a_server_error, *CONFORMS)
            case.validate_response(response, checks=checks)

        try:
            answers_as_described()
        except (Exception, BaseExceptionGroup) as error:
            told = "".join(traceback.format_exception(error))
            failures.append(f"{operation.method.upper()} {operation.path}: {told}")
    return failures
