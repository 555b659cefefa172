"""Rollouts with screenshots by trace id: the same batch as inline, and none with a picture that the team has not."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from store.database import AsyncDatabase
from store.tables import OperationRow, TracePictureRow, TraceRow
from tests.contract.conftest import Team
from tests.contract.test_training_by_id import roll_out
from tests.contract.test_training_pictures import (
    BLUE,
    PLACEHOLDER,
    RED,
    inline,
    logged,
    model,
    pointer,
    seeing_base,
    text,
    turn,
)

__all__ = ["model", "seeing_base"]

SHOWN = [PLACEHOLDER] * 4
FIRST = [text(1, 2), pointer(RED, expected_tokens=4), text(3)]
SECOND = [text(1, 2), pointer(RED, expected_tokens=4), text(3, 7, 9), pointer(BLUE, expected_tokens=4), text(5)]
IDS = ([1, 2, *SHOWN, 3], [1, 2, *SHOWN, 3, 7, 9, *SHOWN, 5])


def told(chunks: list[dict[str, Any]], ids: list[int]) -> dict[str, Any]:
    """A sample as an agent's step has it: the chunks and the flat ids of one reply."""
    return {**turn(*chunks), "prompt_token_ids": ids}


async def sent_before(team: Team, model: dict[str, Any]) -> None:
    """The team's, from now on."""
    body = {"inputs": [{"samples": [turn(text(1), inline(RED), inline(BLUE), text(2))], "reward": 0.0}]}
    reply = await team.train(model["id"], "forward-backward", body)
    assert reply.status_code == 200, reply.text


async def test_a_trace_id_is_the_same_batch_as_its_chunks_inline(
    team: Team, model: dict[str, Any], database: AsyncDatabase
) -> None:
    await sent_before(team, model)
    trace = await roll_out(team, [told(FIRST, IDS[0]), told(SECOND, IDS[1])])
    batches = []
    for inputs in ([{"samples": [turn(*FIRST), turn(*SECOND)], "reward": 1.0, "trace_id": trace}], [trace]):
        reply = await team.train(model["id"], "forward-backward", {"inputs": inputs})
        assert reply.status_code == 200, reply.text
        batches.append(await logged(database, model))
    (sent,), (by_id,) = batches
    assert sent.model_input.key == by_id.model_input.key
    assert sent.model_input.media == by_id.model_input.media
    assert [item.start for item in by_id.model_input.media] == [2, 9]
    assert np.array_equal(sent.spans, by_id.spans)
    assert sent.origin == by_id.origin


async def test_a_trace_names_the_pictures_of_its_steps(
    team: Team, model: dict[str, Any], database: AsyncDatabase
) -> None:
    await sent_before(team, model)
    trace = uuid.UUID(await roll_out(team, [told(SECOND, IDS[1])]))
    named = select(TracePictureRow.name).where(TracePictureRow.trace_id == trace)
    async with database.session() as session:
        names = set(await session.scalars(named))
    assert {f"sha256:{name}" for name in names} == {pointer(RED)["location"], pointer(BLUE)["location"]}
    assert (await team.http.delete(f"/v2/traces/{trace.hex}")).status_code == 200
    async with database.session() as session:
        assert not list(await session.scalars(named))


async def test_a_step_with_a_picture_of_another_team_is_no_turn(
    team: Team, other_team: Team, model: dict[str, Any], seeing_base: Any, database: AsyncDatabase
) -> None:
    theirs = await other_team.fork(str(seeing_base.id))
    await sent_before(team, model)
    trace = await roll_out(other_team, [told(FIRST, IDS[0])])
    reply = await other_team.train(theirs["id"], "forward-backward", {"inputs": [trace]})
    assert reply.status_code == 422
    assert "unknown_picture" in reply.json()["detail"]
    async with database.session() as session:
        query = select(TraceRow.flags).where(TraceRow.id == uuid.UUID(trace))
        assert await session.scalar(query) == ["unknown_picture"]


@pytest.mark.parametrize("size", [3, 5])
async def test_a_step_whose_picture_has_another_number_of_tokens_is_refused(
    size: int, team: Team, model: dict[str, Any], database: AsyncDatabase
) -> None:
    """As another base would have made of it."""
    await sent_before(team, model)
    chunks = [text(1), pointer(RED, expected_tokens=size), text(3)]
    trace = await roll_out(team, [told(chunks, [1, *[PLACEHOLDER] * size, 3])])
    before = await _num_operations(database)
    reply = await team.train(model["id"], "forward-backward", {"inputs": [trace]})
    assert reply.status_code == 422
    assert f"picture 0 has {size} tokens: one of 32×32 pixels has 4 here" in reply.json()["detail"]
    assert await _num_operations(database) == before


async def _num_operations(database: AsyncDatabase) -> int:
    async with database.session() as session:
        return len(list(await session.scalars(select(OperationRow.id))))
