"""The training API's replies: shapes, closedness, what is written down."""

from __future__ import annotations

import asyncio
import json
import uuid

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from server.app import create_app
from server.process.settings import ServerSettings, Timeouts
from store.oplog import results
from store.tables import OperationRow
from tests.contract.conftest import batch, num_operations, serving, trajectory


async def test_losses_lists_the_trainers_names(team, model):
    reply = await team.http.get(f"/v1/models/{model['id']}/train/losses")
    assert reply.json() == {"losses": ["cispo", "cross_entropy", "dro", "importance_sampling", "ppo"]}


async def test_forward_backward_replies_with_metrics_and_nothing_else(team, model):
    reply = await team.train(model["id"], "forward-backward", batch(group_size=2, loss_fn="ppo"))
    assert reply.status_code == 200, reply.text
    assert set(reply.json()) == {"metrics", "num_datums"}
    assert reply.json()["num_datums"] == 2


async def test_a_metric_that_is_not_a_number_is_the_bare_token(team, model):
    reply = await team.train(model["id"], "forward-backward", batch())
    assert b'"kl:mean":NaN' in reply.content


async def test_optim_step_replies_with_the_five_fields(team, model):
    reply = await team.step(model["id"])
    assert set(reply) == {"step", "checkpoint_id", "sampler_path", "state_path", "model"}
    assert reply["step"] == 1
    assert reply["model"] == model["model_name"]


async def test_an_answer_counts_as_given_before_the_client_can_act_on_it(team, model, database):
    await team.step(model["id"])  # the stand-in asserts it
    async with database.session() as session:
        query = select(OperationRow).where(OperationRow.model_id == uuid.UUID(model["id"]))
        assert all(operation.answered_at for operation in await session.scalars(query))


async def test_forward_hands_out_aligned_tensors_and_backward_takes_the_handle_once(team, model):
    reply = await team.train(model["id"], "forward", batch(group_size=2))
    assert reply.status_code == 200, reply.text
    assert set(reply.json()) == {"forward_id", "data"}
    datum = reply.json()["data"][1]
    assert set(datum) == {"reward", "traj_idx", "group_idx", "logprobs", "sampling_logprobs", "mask"}
    assert (datum["traj_idx"], datum["group_idx"], datum["reward"]) == (1, 0, 0.0)
    assert len(datum["logprobs"]) == len(datum["sampling_logprobs"]) == len(datum["mask"]) == 3

    weights = [[0, 0.5, 0.5], [0, -0.5, -0.5]]
    body = {"forward_id": reply.json()["forward_id"], "weights": weights, "metrics": {"trained_tokens": 2.0}}
    first = await team.train(model["id"], "backward", body)
    assert first.json() == {"metrics": {"trained_tokens": 2.0}, "num_datums": 2}
    again = await team.train(model["id"], "backward", body)
    assert again.status_code == 410
    assert "call forward again" in again.json()["detail"]


async def test_without_groups_there_is_no_group_index(team, model):
    reply = await team.train(model["id"], "forward", batch())
    assert [datum["group_idx"] for datum in reply.json()["data"]] == [None, None]


async def test_a_forward_from_before_the_weights_moved_is_refused(team, model):
    forward = (await team.train(model["id"], "forward", batch())).json()
    await team.step(model["id"])
    body = {"forward_id": forward["forward_id"], "weights": [[0, 1, 1], [0, 1, 1]]}
    reply = await team.train(model["id"], "backward", body)
    assert reply.status_code == 410
    assert "the weights have moved" in reply.json()["detail"]


async def test_a_large_batch_goes_through_a_blob(team, model, database):
    prompt = [(i * 7919) % 127 for i in range(400)]
    big = trajectory(samples=[{"prompt_token_ids": prompt, "output_token_ids": [1], "output_logprobs": [-0.5]}])
    reply = await team.train(model["id"], "forward-backward", batch(*[big] * 40))
    assert reply.status_code == 200, reply.text
    assert reply.json()["num_datums"] == 40


async def test_the_same_idempotency_key_runs_the_operation_once(team, model, database):
    url, headers = f"/v1/models/{model['id']}/train/forward-backward", {"Idempotency-Key": "once"}
    replies = await asyncio.gather(*(team.http.post(url, json=batch(), headers=headers) for _ in range(4)))
    assert {reply.status_code for reply in replies} == {200}
    assert await num_operations(database, model["id"]) == 1
    other = await team.http.post(url, json=batch(reward_scale=2.0), headers=headers)
    assert other.status_code == 409
    assert "another body" in other.json()["detail"]


async def test_a_backward_is_retried_under_its_key_although_the_handle_is_used(team, model, database):
    first, second = [(await team.train(model["id"], "forward", batch())).json()["forward_id"] for _ in range(2)]
    url, headers = f"/v1/models/{model['id']}/train/backward", {"Idempotency-Key": "once"}
    body = {"forward_id": first, "weights": [[0, 1, 1], [0, 1, 1]], "metrics": {"trained_tokens": 4.0}}
    made = await team.http.post(url, json=body, headers=headers)
    assert made.status_code == 200, made.text
    retried = await team.http.post(url, json=body, headers=headers)
    assert (retried.status_code, retried.json()) == (200, made.json())
    assert await num_operations(database, model["id"]) == 3
    other = await team.http.post(url, json={**body, "forward_id": second}, headers=headers)
    assert other.status_code == 409
    assert "another body" in other.json()["detail"]


@pytest.mark.parametrize(("num_hiccups", "operation_s", "status"), [(2, 60.0, 200), (10**6, 0.5, 503)])
async def test_no_answer_is_given_that_the_database_does_not_know_of(
    num_hiccups, operation_s, status, team, model, database, database_url, tmp_path, monkeypatch
):
    left = num_hiccups
    settings = ServerSettings(database_url, f"file://{tmp_path}", "token", timeouts=Timeouts(operation_s=operation_s))

    def with_hiccups(write):
        async def hiccup(*args):
            nonlocal left
            left -= 1
            if left >= 0:
                raise OperationalError("UPDATE", {}, Exception("the connection was lost"))
            return await write(*args)

        return hiccup

    with monkeypatch.context() as patched:
        for name in ("_take_small", "_note_answered", "_why_waiting"):
            patched.setattr(results, name, with_hiccups(getattr(results, name)))
        async with serving(create_app(settings)) as url:
            path = f"{url}/v1/models/{model['id']}/train/forward-backward"
            reply = await team.http.post(path, json=batch())
    assert reply.status_code == status, reply.text
    operation = await finished_operation(database, model["id"])
    assert (operation.answered_at is not None) == (status == 200)
    if status == 503:
        assert "send the same call again" in reply.json()["detail"]
        again = await team.train(model["id"], "forward-backward", batch())
        assert again.status_code == 200, again.text
        assert await num_operations(database, model["id"]) == 1


async def test_an_operation_goes_on_when_its_caller_hangs_up_but_is_not_answered(team, model, database, trainer):
    trainer.paused = True
    calling = asyncio.create_task(team.train(model["id"], "forward-backward", batch()))
    while not await num_operations(database, model["id"]):  # noqa: ASYNC110 - it happens in another task
        await asyncio.sleep(0.01)
    calling.cancel()
    await asyncio.sleep(0.1)
    trainer.paused = False
    operation = await finished_operation(database, model["id"])
    assert operation.state == "done"
    assert operation.answered_at is None


async def finished_operation(database, model_id) -> OperationRow:
    query = select(OperationRow).where(OperationRow.model_id == uuid.UUID(model_id))
    while True:
        async with database.session() as session:
            operation = (await session.scalars(query)).one()
        if operation.state != "queued":
            return operation
        await asyncio.sleep(0.02)


async def test_integers_stand_for_floats_and_spaces_for_nothing(team, model):
    text = json.dumps(batch(trajectory(reward=1), trajectory(reward=0)), indent=2)
    url = f"/v1/models/{model['id']}/train/forward-backward"
    reply = await team.http.post(url, content=text, headers={"Content-Type": "application/json"})
    assert reply.status_code == 200, reply.text


async def test_supervised_samples_need_no_logprobs(team, model):
    bare = trajectory(samples=[{"prompt_token_ids": [1], "output_token_ids": [2, 3]}])
    assert (await team.train(model["id"], "forward-backward", batch(bare, loss_fn="cross_entropy"))).status_code == 200
    refused = await team.train(model["id"], "forward-backward", batch(bare))
    assert refused.status_code == 422
    assert "0 output_logprobs" in refused.json()["detail"]
