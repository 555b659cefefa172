"""Rollouts out as files and back in, exactly: by lines that are good, bad, repeated and scored anew."""

from __future__ import annotations

import gzip
import json
import uuid
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.conftest import LIMITS, batch
from tests.contract.test_training_by_id import COMPLETED, TURNS, payloads, roll_out
from wire.datum_payload import decode_datums
from wire.datums import by_trajectory

FORMATS = ["headway", "trl", "verl", "openrlhf", "openai-rft"]
VOLATILE = {"created_at", "entered_at", "exited_at", "flags", "job_id"}


async def export(team: Any, **query: Any) -> bytes:
    reply = await team.http.get("/v2/traces/export", params=query)
    assert reply.status_code == 200, reply.text
    return reply.content


async def rows(team: Any, **query: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (await export(team, **query)).splitlines()]


async def bring(team: Any, *lines: Any, **query: Any) -> dict[str, Any]:
    body = b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
    reply = await team.http.post("/v2/traces/import", content=body, params=query)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def play(team: Any, model: dict[str, Any], turns: int = 3, reward: float = 1.0) -> str:
    """A game through the gateway: a tool answers every move."""
    trace, messages = uuid.uuid4().hex, [{"role": "user", "content": "begin"}]
    tools = [{"type": "function", "function": {"name": "move", "parameters": {"type": "object"}}}]
    for number in range(turns):
        body = {"model": model["model_name"], "messages": messages, "tools": tools}
        reply = await team.http.post("/chat/completions", json=body, headers={"Trace-Id": trace})
        assert reply.status_code == 200, reply.text
        said = reply.json()["choices"][0]["message"]
        messages += [{"role": "assistant", "content": said["content"]}, {"role": "user", "content": f"board {number}"}]
    await team.http.post(f"/v2/trace/{trace}/exit", json={**COMPLETED, "reward": reward})
    return trace


async def test_what_one_team_exports_trains_another_team_to_the_same_bytes(team, other_team, model, base, database):
    traces = [
        await play(team, model),
        await roll_out(team),
        await roll_out(team, TURNS[:1], {**COMPLETED, "reward": 0.1}),
    ]
    assert await bring(other_team, await export(team)) == {
        "imported": 3, "unchanged": 0, "rescored": 0, "num_refused": 0, "refused": [], "job_id": None,
    }  # fmt: skip
    theirs = await other_team.fork(str(base.id))
    for who, what in ((team, model), (other_team, theirs)):
        reply = await who.train(what["id"], "forward-backward", batch(*traces))
        assert reply.status_code == 200, reply.text
    (ours,), (found,) = await payloads(database, model), await payloads(database, theirs)
    assert ours == found, "the operations in the two logs are the same bytes"
    assert [one[0].origin.reward for one in by_trajectory(decode_datums(ours)[0])] == [1.0, 1.0, 0.1]


async def test_a_second_export_says_what_the_first_one_said(team, other_team, model):
    await play(team, model)
    graded = {**COMPLETED, "evaluation_result": {"score": 1.0, "steps": [1, 2]}}
    await roll_out(team, group_id="g", task_slug="t", left=graded)
    first = {row["trace_id"]: row for row in await rows(team)}
    await bring(other_team, await export(team))
    second = {row["trace_id"]: row for row in await rows(other_team)}
    assert first.keys() == second.keys()
    for trace, row in first.items():
        assert {k: v for k, v in row.items() if k not in VOLATILE} == {
            k: v for k, v in second[trace].items() if k not in VOLATILE
        }
        assert second[trace]["flags"] == ["imported"]


async def test_an_import_is_repeated_without_harm_and_never_overwrites(team, other_team):
    trace = await roll_out(team)
    (row,) = await rows(team)
    assert (await bring(team, row))["unchanged"] == 1, "where it came from, it is on record already"
    assert (await bring(other_team, row, row))["unchanged"] == 1
    other_tokens = {**row, "turns": row["turns"][:1]}
    for changed, sentence in ((other_tokens, "other turns"), ({**row, "reward": 0.5}, "rescore")):
        refused = (await bring(other_team, changed))["refused"]
        assert sentence in refused[0]["detail"]
        assert refused[0]["trace_id"] == str(uuid.UUID(trace))
    assert (await rows(other_team))[0]["reward"] == 1.0
    assert (await bring(other_team, {**row, "reward": 0.5}, rescore=True))["rescored"] == 1
    assert (await bring(other_team, other_tokens, rescore=True))["num_refused"] == 1
    assert ((await rows(other_team))[0]["reward"], (await rows(team))[0]["reward"]) == (0.5, 1.0)


async def test_lines_from_elsewhere_need_no_more_than_tokens_and_a_reward(team, model):
    line = {"prompt_token_ids": [1, 2], "output_token_ids": [3], "reward": 1}
    done = await bring(team, line, line, {**line, "output_logprobs": [-1], "reward": 0.5}, job="scored elsewhere")
    assert (done["imported"], done["unchanged"]) == (2, 1)
    (job,) = (await team.http.get("/v2/jobs")).json()["items"]
    assert (job["id"], job["name"], job["status"]) == (done["job_id"], "scored elsewhere", "completed")
    found = await rows(team, job_id=done["job_id"])
    with_logprobs = [row["trace_id"] for row in found if row["turns"][0]["output_logprobs"]]
    traces = [row["trace_id"] for row in found]
    reply = await team.train(model["id"], "forward-backward", batch(*traces, loss_fn="cross_entropy"))
    assert reply.status_code == 200, reply.text
    assert (await team.train(model["id"], "forward-backward", batch(*with_logprobs))).status_code == 200
    refused = await team.train(model["id"], "forward-backward", batch(*traces))
    assert "0 output_logprobs" in refused.json()["detail"]


GOOD = {"prompt_token_ids": [1], "output_token_ids": [2], "output_logprobs": [-0.5], "reward": 0.0}
ONE_TURN = {"prompt_token_ids": [1], "output_token_ids": [2]}
BAD = [
    (b"{\n", "not valid JSON"),
    (b"[1, 2]\n", "object"),
    (b"null\n", "object"),
    (b"\xff\xfe\n", "not valid JSON"),
    (b"[" * 50_000 + b"\n", "not valid JSON"),
    ({}, "has no turns"),
    ({**GOOD, "turns": []}, "both turns and token arrays"),
    ({**GOOD, "rewrd": 1.0}, "rewrd"),
    ({**GOOD, "reward": "1"}, "reward"),
    ({**GOOD, "output_token_ids": []}, "nothing to train on"),
    ({**GOOD, "output_token_ids": [-1]}, "no token id"),
    ({**GOOD, "prompt_token_ids": [2**31]}, "no token id"),
    ({**GOOD, "prompt_token_ids": [1.5]}, "integers"),
    ({**GOOD, "output_logprobs": [-1.0, -2.0]}, "2 output_logprobs for 1"),
    ({**GOOD, "output_logprobs": [1e39]}, "finite"),
    ({**GOOD, "trace_id": "x"}, "trace_id"),
    ({**GOOD, "trace_id": [1, 2]}, "trace_id"),
    ({**GOOD, "format": "headway-trace/9"}, "headway-trace/1"),
    ({**GOOD, "evaluation_result": "[1]"}, "evaluation_result must be a JSON object"),
    ({**GOOD, "extra": "{" * 5000}, "extra must be a JSON object"),
    ({**GOOD, "extra": '{"a":' + "[" * 600 + "]" * 600 + "}"}, "extra is nested too deeply"),
    ({**GOOD, "extra": '{"a":' + "[" * 600 + "]" * 600 + "}", "error": "x" * 70_000}, "extra is nested too deeply"),
    ({**GOOD, "evaluation_result": '{"a":' * 5000}, "evaluation_result is nested too deeply"),
    ({"turns": [{**ONE_TURN, "request": '{"messages":' + "[" * 600 + "]" * 600 + "}"}]}, "turn 1: request is nested"),
    ({**GOOD, "prompt_token_ids": [1] * (LIMITS.batch_tokens + 1)}, "more than 20000 tokens"),
    ({**GOOD, "error": "x" * LIMITS.body_bytes}, "the line is longer than 100000 bytes"),
]


async def test_a_bad_line_is_named_and_the_lines_around_it_are_recorded(team):
    lines = [item for bad, _ in BAD for item in (bad, {**GOOD, "trace_id": str(uuid.uuid4())})]
    for at in range(0, len(lines), 4):
        done = await bring(team, *lines[at : at + 4])
        assert [refusal["line"] for refusal in done["refused"]] == [1, 3]
        assert done["imported"] == 2
        for refusal, (_, sentence) in zip(done["refused"], BAD[at // 2 :], strict=False):
            assert sentence in refusal["detail"], refusal
    assert len(await rows(team)) == len(BAD)


async def test_an_import_that_is_too_long_or_compressed_is_refused_and_can_be_sent_again(team):
    lines = [{**GOOD, "trace_id": str(uuid.uuid4()), "error": "x" * 60_000} for _ in range(8)]
    body = "".join(json.dumps(line) + "\n" for line in lines).encode()
    assert len(body) > LIMITS.training_body_bytes
    reply = await team.http.post("/v2/traces/import", content=body)
    assert reply.status_code == 413
    assert "smaller parts" in reply.json()["detail"]
    halves = [await bring(team, *lines[:4]), await bring(team, *lines[4:])]
    assert sum(half["imported"] + half["unchanged"] for half in halves) == 8
    packed = await team.http.post(
        "/v2/traces/import", content=gzip.compress(body), headers={"Content-Encoding": "gzip"}
    )
    assert packed.status_code == 415


async def test_exports_are_filtered_as_lists_are_and_know_only_their_team(team, other_team, model):
    first, second = (
        await roll_out(team, task_slug="a"),
        await roll_out(team, task_slug="b", left={**COMPLETED, "reward": 0.0}),
    )
    await roll_out(other_team)
    ids = [str(uuid.UUID(trace)) for trace in (second, first)]
    for query in (
        {},
        {"task_slug": "a"},
        {"min_reward": 0.5},
        {"status": "running"},
        {"since": "2990-01-01T00:00:00Z"},
    ):
        listed = [item["id"] for item in (await team.http.get("/v2/traces", params=query)).json()["items"]]
        assert [row["trace_id"] for row in await rows(team, **query)] == listed
    assert [row["trace_id"] for row in await rows(team)] == ids
    for bad in ({"format": "csv"}, {"min_reward": "nan"}, {"job_id": "x"}, {"format": "parquet", "gzip": True}):
        assert (await team.http.get("/v2/traces/export", params=bad)).status_code == 422


async def test_an_export_goes_through_as_many_pages_as_there_are(team, monkeypatch):
    monkeypatch.setattr("server.rollouts.exporting._PAGE", 2)
    monkeypatch.setattr("server.rollouts.exporting._PORTION_TOKENS", 1)
    traces = [str(uuid.UUID(await roll_out(team, TURNS[:1]))) for _ in range(5)]
    assert [row["trace_id"] for row in await rows(team)] == traces[::-1]
    packed = await export(team, gzip=True)
    assert len(gzip.decompress(packed).splitlines()) == 5


async def test_an_export_that_breaks_off_does_not_pass_for_whole(team, monkeypatch):
    import httpx

    from server.rollouts import exporting

    monkeypatch.setattr(exporting, "_PORTION_TOKENS", 1)
    real, calls = exporting.resolve, []

    async def failing(*args: Any, **more: Any) -> Any:
        calls.append(args)
        if len(calls) > 1:
            raise OSError("a blob is gone")
        return await real(*args, **more)

    monkeypatch.setattr(exporting, "resolve", failing)
    for _ in range(2):
        await roll_out(team, TURNS[:1])
    for query in ({}, {"gzip": "true"}, {"format": "parquet"}):
        calls.clear()
        with pytest.raises(httpx.RemoteProtocolError):
            await team.http.get("/v2/traces/export", params=query)


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
IDS = st.integers(0, 2**31 - 1)
OUTPUTS = st.lists(st.tuples(IDS, FLOATS), min_size=1, max_size=6)
TURN = st.tuples(st.lists(IDS, max_size=6), OUTPUTS, st.booleans())
NUMBERS, TEXTS = st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=9)
ROLLOUT = st.tuples(st.lists(TURN, max_size=3), NUMBERS, TEXTS, TEXTS)


def line_of(turns, reward, task, answer) -> dict[str, Any]:
    request = json.dumps(
        {"preamble": {}, "messages": [{"role": "user", "content": task}], "reply": {"content": answer}}
    )
    return {
        "trace_id": str(uuid.uuid4()),
        "reward": reward,
        "task_slug": task,
        "turns": [
            {
                "prompt_token_ids": prompt,
                "output_token_ids": [token for token, _ in outputs],
                "output_logprobs": [logprob for _, logprob in outputs],
                **({"served_at": "2026-01-02T03:04:05Z", "request": request} if is_served else {}),
            }
            for prompt, outputs, is_served in turns
        ],
    }


@given(st.lists(ROLLOUT, min_size=1, max_size=6))
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
async def test_any_rollout_comes_back_bit_for_bit(team, rollouts):
    """Of a team that has no others: each export has all of a team's."""
    lines = [line_of(*rollout) for rollout in rollouts]
    assert (await bring(team, *lines))["imported"] == len(lines)
    for line in lines:
        assert (await team.http.get(f"/v2/traces/{line['trace_id']}")).status_code == 200
    exported = {row["trace_id"]: row for row in await rows(team)}
    assert len(exported) == len(lines)
    for line in lines:
        assert_same_rollout(line, exported[line["trace_id"]])
    assert (await bring(team, *exported.values()))["unchanged"] == len(lines)
    for line in lines:
        await team.http.delete(f"/v2/traces/{line['trace_id']}")


def assert_same_rollout(line: dict[str, Any], row: dict[str, Any]) -> None:
    assert np.float64(row["reward"]).tobytes() == np.float64(line["reward"]).tobytes()
    assert row["task_slug"] == line["task_slug"].replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
    for said, found in zip(line["turns"], row["turns"], strict=True):
        assert found["prompt_token_ids"] == said["prompt_token_ids"]
        assert found["output_token_ids"] == said["output_token_ids"]
        bits = [np.array(one["output_logprobs"], np.float32).tobytes() for one in (said, found)]
        assert bits[0] == bits[1]
