"""Sampling without a protocol: a caller who is known, prompts in plain types, answers on record."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from server.app import create_app
from server.principals.callers import Caller
from server.process.settings import ServerSettings
from server.sampling.collaborators import Sampling
from server.sampling.requests import Chat, Rollout, SampleRequest
from server.sampling.service import sample, stream
from server.sampling.targets import find_target
from tests.contract.conftest import serving
from wire.errors import Forbidden, ModelNotFound
from wire.sampling import ParseOptions, RenderRequest, SamplingParams

HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def sampling(database_url: str, tmp_path: Path) -> AsyncIterator[Sampling]:
    app = create_app(ServerSettings(database_url, f"file://{tmp_path}", "token"))
    async with serving(app):
        yield app.state.context.sampling


@pytest.fixture
async def caller(team) -> Caller:
    me = (await team.http.get("/v2/team")).json()
    return Caller(uuid.UUID(me["id"]), uuid.uuid4(), team.name, "member", frozenset({"sample"}), None)


def chat(**more: Any) -> Chat:
    return Chat(RenderRequest(messages=HELLO), ParseOptions(), HELLO, **more)


async def test_a_caller_without_a_key_samples_and_the_answer_is_on_record(sampling, caller, team, model):
    target = await find_target(sampling, caller, model["model_name"])
    rollout = Rollout(uuid.uuid4(), 100)
    (answer,) = await sample(sampling, target, SampleRequest([chat()], SamplingParams(max_tokens=8), rollout=rollout))
    shown = (await team.http.get(f"/v2/traces/{rollout.trace_id}")).json()
    (turn,) = shown["turns"]
    assert turn["output_token_ids"] == answer.tokens.ids
    assert turn["messages"] == HELLO
    assert turn["reply"] == answer.as_message() == {"role": "assistant", "content": "36"}


async def test_a_stream_says_and_records_what_the_whole_answer_would(sampling, caller, team, model):
    target = await find_target(sampling, caller, model["id"])
    rollout = Rollout(uuid.uuid4(), 100)
    request = SampleRequest([chat()], SamplingParams(max_tokens=8), 2, whole=False, rollout=rollout)
    answers = await stream(sampling, target, request)
    assert {index async for index, _ in answers} == {0, 1}
    assert [answer.as_message() for answer in answers.answers] == 2 * [{"role": "assistant", "content": "36"}]
    shown = (await team.http.get(f"/v2/traces/{rollout.trace_id}")).json()
    assert [turn["reply"] for turn in shown["turns"]] == [{"role": "assistant", "content": "36"}]


async def test_token_ids_are_continued_as_they_are(sampling, caller, model, sampler_script):
    target = await find_target(sampling, caller, model["model_name"])
    answers = await sample(sampling, target, SampleRequest([[5, 6], [7]], SamplingParams(max_tokens=8, seed=3), 2))
    assert [answer.prompt_ids for answer in answers] == [[5, 6], [5, 6], [7], [7]]
    assert sorted(request.params.seed for request in sampler_script.requests) == [3, 4, 5, 6]


async def test_callers_are_held_to_their_scopes_models_and_teams(sampling, caller, other_team, model):
    reader = Caller(caller.team_id, caller.key_id, caller.team, "viewer", frozenset({"read"}), None)
    narrow = Caller(caller.team_id, caller.key_id, caller.team, "member", caller.scopes, frozenset({uuid.uuid4()}))
    theirs = (await other_team.http.get("/v2/team")).json()
    other = Caller(uuid.UUID(theirs["id"]), uuid.uuid4(), other_team.name, "member", caller.scopes, None)
    for who, refusal in ((reader, Forbidden), (narrow, Forbidden), (other, ModelNotFound)):
        with pytest.raises(refusal):
            await find_target(sampling, who, model["id"])
