"""Sessions of the Tinker API over HTTP."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import httpx
import pytest

from server.client_sessions.heartbeats import Heartbeats
from store.database import AsyncDatabase

ROOT = "/api/v1"


async def opened(team: Any, key: str | None = None) -> str:
    headers = {"X-Idempotency-Key": key} if key else {}
    reply = await team.http.post(f"{ROOT}/create_session", json={"tags": ["t"], "new_field": 1}, headers=headers)
    assert reply.status_code == 200, reply.text
    return reply.json()["session_id"]


async def beat(team: Any, session_id: str) -> httpx.Response:
    return await team.http.post(f"{ROOT}/session_heartbeat", json={"session_id": session_id})


async def test_a_key_in_the_header_of_the_sdk_opens_what_a_bearer_key_does(origin, team):
    async with httpx.AsyncClient(base_url=origin, headers={"X-API-Key": team.key}, trust_env=False) as http:
        config = (await http.post(f"{ROOT}/client/config", json={"sdk_version": "9"})).json()
        assert config["proto_write_fwdbwd"]
        assert not config["pjwt_auth_enabled"]
        assert (await http.post(f"{ROOT}/client/dynamic_config", json={})).json()["refresh_interval_sec"] > 0
    assert (await httpx.AsyncClient(base_url=origin, trust_env=False).get(f"{ROOT}/healthz")).json() == {"status": "ok"}


async def test_the_bases_are_the_supported_models(standing_team, base):
    reply = (await standing_team.http.get(f"{ROOT}/get_server_capabilities")).json()
    found = {model["model_name"]: model for model in reply["supported_models"]}
    assert found[base.slug] == {
        "model_name": base.slug,
        "max_context_length": base.info["context_length"],
        "trainable": True,
        "sampleable": True,
    }


async def test_a_session_whose_answer_got_lost_is_opened_once(team, other_team):
    key = uuid.uuid4().hex
    first = await opened(team, key)
    assert await opened(team, key) == first
    assert await opened(team) != first
    assert await opened(other_team, key) != first


async def test_a_finished_session_is_gone_and_the_first_reason_stays(team, database: AsyncDatabase):
    session_id = await opened(team)
    assert (await beat(team, session_id)).json() == {"type": "session_heartbeat"}
    for kind in ("success", "errored"):
        reply = await team.http.post(f"{ROOT}/sessions/{session_id}/finish", json={"reason": {"type": kind}})
        assert reply.status_code == 200
    gone = await beat(team, session_id)
    assert (gone.status_code, "finished" in gone.json()["detail"]) == (410, True)
    async with database.connection() as connection:
        row = await (
            await connection.execute("select finish_reason from client_sessions where id = %s", [session_id])
        ).fetchone()
    assert row.finish_reason["reason"] == {"type": "success"}
    assert (await team.http.post(f"{ROOT}/telemetry", json={"events": []})).json() == {"status": "accepted"}


@pytest.mark.parametrize("session_id", ["nobody's", "nul\x00", "x" * 5000])
async def test_an_unknown_session_is_not_found(standing_team, session_id):
    reply = await beat(standing_team, session_id)
    assert (reply.status_code, len(reply.json()["detail"]) < 200) == (404, True)


class CountedHeartbeats(Heartbeats):
    num_statements = 0

    async def _write(self, beats: Any) -> Any:
        self.num_statements += 1
        return await super()._write(beats)


async def test_heartbeats_of_many_sessions_are_written_together(team, database_url: str, database: AsyncDatabase):
    ids = await asyncio.gather(*(opened(team) for _ in range(20)))
    async with database.connection() as connection:
        await connection.execute("update client_sessions set heartbeat_at = '2020-01-01' where id = any(%s)", [ids])
        found = await connection.execute("select team_id from client_sessions where id = %s", [ids[0]])
        team_id = (await found.fetchone())[0]
    own = AsyncDatabase(database_url, pool_size=1)
    heartbeats = CountedHeartbeats(own)
    await asyncio.gather(*(heartbeats.beat(team_id, session_id) for session_id in ids * 3))
    await own.close()
    assert heartbeats.num_statements == 1
    async with database.connection() as connection:
        found = await connection.execute(
            "select count(*) from client_sessions where id = any(%s) and heartbeat_at > '2021-01-01'", [ids]
        )
        assert (await found.fetchone())[0] == 20
