"""Labels of rollouts and comments on them: written, found by, exported and imported with the rollout, audited."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from sqlalchemy import select

from store.tables import EventRow
from tests.contract.test_training_by_id import TURNS, roll_out


async def labelled(team: Any, trace: str, **change: Any) -> Any:
    reply = await team.http.post(f"/v2/traces/{trace}/labels", json=change)
    assert reply.status_code == 200, reply.text
    return reply.json()["labels"]


async def test_labels_and_comments_are_found_exported_and_imported(team: Any, other_team: Any, database: Any):
    trace, plain = await roll_out(team, TURNS[:1]), await roll_out(team, TURNS[:1])
    assert await labelled(team, trace, add=["wrong  tool", "to discuss", "wrong tool"]) == ["wrong tool", "to discuss"]
    assert await labelled(team, trace, add=["ours"], remove=["to discuss"]) == ["wrong tool", "ours"]
    for text in ("Look at turn 1.\r\nIt guesses.", "Agreed."):
        assert (await team.http.post(f"/v2/traces/{trace}/comments", json={"text": text})).status_code == 200
    first = (await team.http.get(f"/v2/traces/{trace}/comments?limit=1")).json()
    assert [one["text"] for one in first["items"]] == ["Look at turn 1.\nIt guesses."]
    rest = await team.http.get(f"/v2/traces/{trace}/comments?cursor={first['next_cursor']}")
    assert ([one["text"] for one in rest.json()["items"]], rest.json()["next_cursor"]) == (["Agreed."], None)

    for query, found in [("label=ours", [trace]), ("has_comments=true", [trace]), ("has_comments=false", [plain])]:
        listed = (await team.http.get(f"/v2/traces?{query}")).json()["items"]
        assert [uuid.UUID(one["id"]) for one in listed] == [uuid.UUID(one) for one in found], query
    line = (await team.http.get("/v2/traces/export?label=ours")).text
    exported = json.loads(line)
    assert exported["labels"] == ["wrong tool", "ours"]
    assert [one["text"] for one in exported["comments"]] == ["Look at turn 1.\nIt guesses.", "Agreed."]

    brought = await other_team.http.post("/v2/traces/import", content=line)
    assert brought.json()["imported"] == 1, brought.text
    theirs = (await other_team.http.get(f"/v2/traces/{trace}")).json()
    assert (theirs["labels"], theirs["num_comments"]) == (["wrong tool", "ours"], 2)
    kept = (await other_team.http.get(f"/v2/traces/{trace}/comments")).json()["items"]
    assert [(one["author"], one["text"]) for one in kept] == [
        (one["author"], one["text"]) for one in exported["comments"]
    ]

    gone = rest.json()["items"][0]["id"]
    assert (await team.http.delete(f"/v2/traces/{trace}/comments/{gone}")).json() == {"deleted": True}
    assert (await team.http.delete(f"/v2/traces/{trace}/comments/{gone}")).status_code == 404
    async with database.session() as session:
        events = (await session.scalars(select(EventRow).where(EventRow.subject_id == uuid.UUID(trace)))).all()
    done = [
        one.action for one in events if one.team_id == uuid.UUID((await team.http.get("/v2/auth/me")).json()["team_id"])
    ]
    assert sorted(done) == ["comment_on_trace"] * 2 + ["delete_trace_comment"] + ["label_trace"] * 2


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("labels", {"add": ["a,b"]}, "commas"),
        ("labels", {"add": ["x" * 41]}, "40 characters"),
        ("labels", {"add": ["\u0000"]}, "40 characters"),
        ("labels", {"add": [" "]}, "40 characters"),
        ("labels", {"labels": ["x"]}, "labels"),
        ("labels", {"add": [str(number) for number in range(21)]}, "20"),
        ("comments", {"text": " "}, "4000 characters"),
        ("comments", {"text": "x" * 4001}, "4000 characters"),
        ("comments", {"text": "\ud800"}, "characters"),
        ("comments", {}, "text"),
    ],
)
async def test_what_is_no_label_or_comment_is_refused(team: Any, path: str, body: Any, says: str):
    trace = await roll_out(team, TURNS[:1])
    reply = await team.http.post(
        f"/v2/traces/{trace}/{path}", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert (reply.status_code, says in reply.text) == (422, True), reply.text
    assert (await team.http.get(f"/v2/traces/{trace}")).json()["labels"] == []


async def test_labels_and_comments_of_a_rollout_are_bounded(team: Any):
    trace = await roll_out(team, TURNS[:1])
    await labelled(team, trace, add=[str(number) for number in range(20)])
    reply = await team.http.post(f"/v2/traces/{trace}/labels", json={"add": ["one more"]})
    assert (reply.status_code, reply.json()["code"]) == (422, "invalid_request")
    assert len((await team.http.get(f"/v2/traces/{trace}")).json()["labels"]) == 20
