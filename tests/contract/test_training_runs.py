"""Training runs of the Tinker API over HTTP: made once, trained in order, their results fetched later."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import zstandard

from server.app import create_app
from server.process.settings import ServerSettings
from server.protocols.tinker.messages import tinker_pb2 as pb
from store.database import AsyncDatabase
from store.tables import ModelRow
from tests.contract.conftest import CONTEXT, LIMITS, Team, serving
from wire.payload import decode

ROOT = "/api/v1"
PROTOBUF = "application/x-protobuf"


@dataclass
class Run:
    """A run, and its client."""

    http: httpx.AsyncClient
    id: str
    session_id: str
    numbers: Any

    async def post(self, path: str, body: dict[str, Any] | None = None, **options: Any) -> httpx.Response:
        return await self.http.post(f"{ROOT}/{path}", json={"model_id": self.id, **(body or {})}, **options)

    async def promised(self, path: str, body: dict[str, Any] | None = None, number: int | None = None) -> str:
        """The future of a request with the next number."""
        reply = await self.post(path, {"seq_id": number or next(self.numbers), **(body or {})})
        assert reply.status_code == 200, reply.text
        assert reply.json()["model_id"] == self.id
        return reply.json()["request_id"]

    async def fetch(self, request_id: str, **headers: str) -> httpx.Response:
        body = {"request_id": request_id, "allow_metadata_only": False}
        return await self.http.post(f"{ROOT}/retrieve_future", json=body, headers=headers)

    async def result(self, request_id: str) -> dict[str, Any]:
        reply = await self.fetch(request_id)
        assert reply.status_code == 200, reply.text
        return reply.json()


async def made(team: Any, base: Any, **more: Any) -> Run:
    session = (await team.http.post(f"{ROOT}/create_session", json={})).json()["session_id"]
    body = {"session_id": session, "model_seq_id": 0, "base_model": base.slug, **more}
    reply = await team.http.post(f"{ROOT}/create_model", json=body)
    assert reply.status_code == 200, reply.text
    assert reply.json()["model_id"] == f"{session}:train:0"
    return Run(team.http, reply.json()["model_id"], session, count(1))


@pytest.fixture
async def run(team, base) -> Run:
    return await made(team, base)


@pytest.fixture(scope="module")
async def wronged_run(standing_team, base) -> Run:
    """For requests that make no sense, one after another."""
    return await made(standing_team, base)


def datum(tokens: list[int] | None = None, **inputs: Any) -> dict[str, Any]:
    tokens = tokens or [1, 2, 3]
    inputs = inputs or {"target_tokens": {"data": [2] * len(tokens), "dtype": "int64", "shape": [len(tokens)]}}
    return {"model_input": {"chunks": [{"type": "encoded_text", "tokens": tokens}]}, "loss_fn_inputs": inputs}


def passing(*data: dict[str, Any], loss_fn: str = "cross_entropy", **more: Any) -> dict[str, Any]:
    return {"forward_backward_input": {"data": list(data) or [datum()], "loss_fn": loss_fn, **more}}


def message(run: Run, number: int, *, forward_only: bool = False) -> pb.ForwardBackwardRequest:
    sent = pb.ForwardBackwardRequest(model_id=run.id, seq_id=number, loss_fn="cross_entropy", forward_only=forward_only)
    one = sent.data.add()
    one.model_input.add().encoded_text.tokens = np.array([1, 2, 3], "<i4").tobytes()
    targets = one.loss_fn_inputs["target_tokens"]
    targets.dense, targets.dtype = np.array([2, 3, 4], "<i8").tobytes(), pb.DTYPE_INT64
    targets.shape.append(3)
    return sent


async def test_a_run_is_made_once_and_says_what_it_is(team, base):
    metadata = {"name": "my run! 1", "k": [1]}
    shape = {"rank": 8, "train_unembed": False}
    run = await made(team, base, lora_config=shape, user_metadata=metadata)
    again = {"session_id": run.session_id, "model_seq_id": 0, "base_model": base.slug, "lora_config": shape}
    assert (await team.http.post(f"{ROOT}/create_model", json=again)).json()["model_id"] == run.id
    info = (await run.post("get_info")).json()
    assert (info["model_data"]["model_name"], info["lora_rank"]) == (base.slug, 8)
    model = (await team.http.get("/v2/models/resolve?model=my-run-1")).json()
    assert model["base_model"] == base.slug
    promise = (await team.http.post(f"{ROOT}/create_model", json=again)).json()["request_id"]
    assert await run.result(promise) == {"type": "create_model", "model_id": run.id}
    other = await team.http.post(f"{ROOT}/create_model", json={**again, "lora_config": {**shape, "rank": 4}})
    assert other.status_code == 400, other.text
    assert "count model_seq_id up" in other.json()["detail"]


async def test_a_shape_is_the_client_s_and_a_start_is_random_where_it_does_not_say(team, base, database):
    runs = [await made(team, base), await made(team, base), await made(team, base, lora_config={"rank": 4, "seed": 7})]
    async with database.connection() as connection:
        found = await connection.execute(
            "select lora, serves_head from models where session_id = any(%s) order by created_at",
            [[run.session_id for run in runs]],
        )
        rows = await found.fetchall()
    one, two, three = (row.lora for row in rows)
    assert {**one, "init_seed": 0} == {
        "rank": 32, "alpha": 32, "init_seed": 0, "attn": True, "mlp": True, "unembed": True
    }  # fmt: skip
    assert one["init_seed"] != two["init_seed"]
    assert (three["init_seed"], three["rank"], rows[0].serves_head) == (7, 4, False)


@pytest.mark.parametrize(
    ("more", "status", "sentence"),
    [
        ({"base_model": "nobody/knows"}, 404, "nobody/knows"),
        ({"lora_config": {"rank": 4, "alpha": 1}}, 422, "alpha"),
        ({"lora_config": {"rank": 0}}, 422, "rank"),
        ({"lora_config": {"train_mlp": False, "train_attn": False, "train_unembed": False}}, 422, "must be true"),
        ({"optimizer_config": {"type": "dimuon", "version": 1}}, 422, "adamw"),
        ({"session_id": "nobody's"}, 404, "session"),
    ],
)
async def test_what_cannot_be_made_is_refused_by_name(team, base, more, status, sentence):
    session = (await team.http.post(f"{ROOT}/create_session", json={})).json()["session_id"]
    body = {"session_id": session, "model_seq_id": 0, "base_model": base.slug, **more}
    reply = await team.http.post(f"{ROOT}/create_model", json=body)
    assert (reply.status_code, sentence in reply.json()["detail"]) == (status, True), reply.text


@pytest.fixture
async def base_with_experts(base, database):
    """Of which a trainer says that adapters leave its experts out."""

    async def say(info: dict[str, Any]) -> None:
        async with database.session() as session:
            (await session.get_one(ModelRow, base.id)).info = info

    await say({**base.info, "adapted_parts": ["attn", "unembed"]})
    yield base
    await say(base.info)


async def test_a_part_that_adapters_do_not_cover_is_refused_by_name(team, base_with_experts):
    session_id = (await team.http.post(f"{ROOT}/create_session", json={})).json()["session_id"]
    body = {"session_id": session_id, "model_seq_id": 0, "base_model": base_with_experts.slug}
    reply = await team.http.post(f"{ROOT}/create_model", json=body)
    assert (reply.status_code, "train_mlp must be false" in reply.json()["detail"]) == (422, True), reply.text
    await made(team, base_with_experts, lora_config={"train_mlp": False})


async def test_a_run_of_a_finished_session_takes_no_work_and_keeps_its_results(run):
    promise = await run.promised("forward_backward", passing())
    await run.http.post(f"{ROOT}/sessions/{run.session_id}/finish", json={})
    refused = await run.post("optim_step", {"seq_id": 2, "adam_params": {}})
    assert (refused.status_code, "finished" in refused.json()["detail"]) == (410, True)
    assert (await run.result(promise))["metrics"]["loss:sum"] == -0.5


async def test_requests_sent_ahead_are_answered_in_json(run, database: AsyncDatabase):
    passed, stepped, kept, sampled, taken, external = [
        await run.promised("forward_backward", passing()),
        await run.promised("optim_step", {"adam_params": {"learning_rate": 0.5}}),
        await run.promised("save_weights", {"path": "first", "ttl_seconds": 3600}),
        await run.promised("save_weights_for_sampler", {"path": "first"}),
        await run.promised("save_weights_for_sampler", {"sampling_session_seq_id": 4}),
        await run.promised("save_weights_external", {"path": "ext"}),
    ]
    output = await run.result(passed)
    assert output["loss_fn_output_type"] == "ArrayRecord"
    assert output["loss_fn_outputs"] == [{"logprobs": {"data": [-1.0] * 3, "dtype": "float32", "shape": [3]}}]
    assert all(name.count(":") == 1 for name in output["metrics"])
    assert (await run.result(stepped))["metrics"]["num_gradients"] == 1.0
    async with database.connection() as connection:
        found = await connection.execute("select payload from operations where id = %s::uuid", [stepped])
        adam, _ = decode((await found.fetchone()).payload)
    assert adam == {
        "learning_rate": 0.5, "beta1": 0.9, "beta2": 0.95, "eps": 1e-12, "weight_decay": 0.0, "max_grad_norm": 0.0
    }  # fmt: skip
    assert await run.result(kept) == {"type": "save_weights", "path": f"tinker://{run.id}/weights/first"}
    assert (await run.result(sampled))["path"] == f"tinker://{run.id}/sampler_weights/first"
    assert (await run.result(taken))["sampling_session_id"] == f"{run.session_id}:sample:4"
    assert (await run.result(external))["path"] == f"tinker://{run.id}/external_weights/ext"
    assert await run.result(passed) == output, "an answer may get lost, and is given again"


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("forward_only", [False, True])
async def test_protobuf_is_answered_in_protobuf_where_the_client_takes_it(run, forward_only, is_compressed):
    content = message(run, 1, forward_only=forward_only).SerializeToString()
    headers = {"Content-Type": PROTOBUF}
    if is_compressed:
        content, headers["Content-Encoding"] = zstandard.compress(content), "zstd"
    reply = await run.http.post(f"{ROOT}/forward_backward", content=content, headers=headers)
    assert reply.status_code == 200, reply.text
    fetched = await run.fetch(reply.json()["request_id"], Accept=PROTOBUF)
    assert fetched.headers["content-type"] == PROTOBUF
    output = pb.ForwardBackwardOutput.FromString(fetched.content)
    assert np.frombuffer(output.loss_fn_outputs[0].fields["logprobs"].data, "<f4").tolist() == [-1.0] * 3
    assert output.metrics["loss:sum"] == -0.5


async def test_mixed_shapes_are_json_for_sdks_that_cannot_read_them_in_protobuf(run):
    pairs = {"target_tokens": {"data": [2, 3] * 3, "dtype": "int64", "shape": [3, 2]}}
    promise = await run.promised("forward_backward", passing(datum(), datum(**pairs)))
    for version, media_type in (("0.22.7", "application/json"), ("0.25.0", PROTOBUF)):
        agent = {"User-Agent": f"AsyncTinker/Python {version}"}
        fetched = await run.fetch(promise, Accept=PROTOBUF, **agent)
        assert fetched.headers["content-type"] == media_type


async def test_a_large_result_says_its_size_first(run, monkeypatch):
    monkeypatch.setattr("server.protocols.tinker.futures._SHOWN_AT_ONCE_BYTES", 5000)
    promise = await run.promised("forward_backward", passing(*[datum([1] * CONTEXT) for _ in range(5000 // CONTEXT)]))
    asked = {"request_id": promise, "allow_metadata_only": True}
    headers = {"Accept": PROTOBUF}
    sized = (await run.http.post(f"{ROOT}/retrieve_future", json=asked, headers=headers)).json()
    assert sized["status"] == "complete_metadata"
    assert len((await run.fetch(promise, **headers)).content) == sized["response_payload_size"] > 5000


async def test_a_bomb_of_zstd_is_not_unpacked(run):
    for bomb in (zstandard.compress(bytes(LIMITS.body_bytes + 1)), _of_unknown_size(bytes(LIMITS.body_bytes + 1))):
        headers = {"Content-Type": PROTOBUF, "Content-Encoding": "zstd"}
        reply = await run.http.post(f"{ROOT}/forward_backward", content=bomb, headers=headers)
        assert (reply.status_code, "once it is unpacked" in reply.json()["detail"]) == (413, True)
    headers["Content-Encoding"] = "gzip"
    assert (await run.http.post(f"{ROOT}/forward_backward", content=b"x", headers=headers)).status_code == 415


async def test_a_part_of_a_zstd_body_is_not_taken_for_the_whole(run):
    headers = {"Content-Type": PROTOBUF, "Content-Encoding": "zstd"}
    content = message(run, 1).SerializeToString()
    for whole in (zstandard.compress(content), _of_unknown_size(content)):
        for other in (whole[:-1], whole[: len(whole) // 2], whole + whole, whole + b"more"):
            reply = await run.http.post(f"{ROOT}/forward_backward", content=other, headers=headers)
            assert (reply.status_code, "not one whole frame" in reply.json()["detail"]) == (422, True)
        reply = await run.http.post(f"{ROOT}/forward_backward", content=whole, headers=headers)
        assert reply.status_code == 200


def _of_unknown_size(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(content)


async def test_a_repeated_request_is_the_same_and_another_under_its_number_is_refused(run):
    first = await run.promised("forward_backward", passing(), 1)
    assert await run.promised("forward_backward", {**passing(), "new_field": 1}, 1) == first
    other = await run.post("forward_backward", {"seq_id": 1, **passing(datum([1, 2]))})
    assert (other.status_code, "number 1" in other.json()["detail"]) == (400, True)
    saved = await run.promised("save_weights_for_sampler", {"sampling_session_seq_id": 0}, 2)
    assert await run.promised("save_weights_for_sampler", {"sampling_session_seq_id": 1}, 2) == saved
    assert (await run.result(saved))["sampling_session_id"] == f"{run.session_id}:sample:0"


@pytest.mark.parametrize("number", [0, -1, 2**63 - 1, 2**70, 1.0, "1", None, True])
async def test_what_counts_nothing_is_refused_at_once(run, number):
    for path, body in (("forward_backward", passing()), ("optim_step", {}), ("load_weights", {"path": "x"})):
        refused = await run.post(path, {**body, "seq_id": number})
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
        assert "number" in refused.json()["detail"] or "seq_id" in refused.json()["detail"]


async def test_numbers_that_arrive_out_of_order_are_carried_out_in_order(run, database: AsyncDatabase):
    late = await run.promised("optim_step", {"adam_params": {}}, 2)
    pending = asyncio.create_task(run.result(late))
    await asyncio.sleep(0.2)
    assert not pending.done()
    await run.promised("forward_backward", passing(), 1)
    assert "metrics" in await pending
    async with database.connection() as connection:
        found = await connection.execute(
            "select o.kind from operations o join models m on m.id = o.model_id where m.session_id = %s "
            "order by o.sequence",
            [run.session_id],
        )
        assert [row.kind for row in await found.fetchall()] == ["forward_backward", "unpromoted_step"]


EMPTY = {"model_input": {"chunks": []}, "loss_fn_inputs": datum()["loss_fn_inputs"]}
WRONG = [
    ("forward_backward", passing(loss_fn="nobody_s"), "unknown loss_fn 'nobody_s'"),
    ("forward_backward", passing(loss_fn_config={"clip": 1.0}), "has no key 'clip'"),
    ("forward_backward", passing(loss_fn_config={"advantage_std": 1.0}), "is for rewards"),
    ("forward_backward", passing(loss_fn_config={"loss_id": "x"}), "must be a number"),
    ("forward_backward", passing(loss_fn="ppo", loss_fn_config={"epsilon": 10**400}), "larger than any float"),
    ("forward_backward", passing(datum([1, 10**6])), "outside the vocabulary"),
    ("forward_backward", passing(EMPTY), "is empty"),
    ("forward_backward", {"forward_backward_input": {"data": [], "loss_fn": "cross_entropy"}}, "data is empty"),
    ("forward_backward", {"forward_backward_input": {"data": 3}}, "data must be a list"),
    ("forward_backward", {}, "must be an object"),
    ("optim_step", {"adam_params": {"learning_rate": -1.0}}, "learning_rate"),
    ("optim_step", {"adam_params": {"momentum": 0.5}}, "momentum"),
    ("optim_step", {"adam_params": {"grad_clip_norm": -1.0}}, "grad_clip_norm"),
    ("optim_step", {"adam_params": {"a\0": 0.5}}, "unknown field adam_params.a\ufffd"),
    ("optim_step", {"adam_params": 5}, "adam_params must be an object"),
    ("optim_step", {"adam_params": {}, "optimizer_params": {"type": "sgd"}}, "'sgd'"),
    ("optim_step", {"optimizer_params": {"type": "dimuon", "learning_rate": 0.1}}, "'dimuon'"),
    ("save_weights", {"path": "a/b"}, "no name for a checkpoint"),
    ("save_weights", {"path": "a", "ttl_seconds": 60}, "ttl_seconds"),
    ("save_weights", {}, "path is missing"),
    ("save_weights", {"path": 5}, "path: should be a valid string"),
    ("save_weights", {"path": "x" * 201}, "1 to 200 letters"),
    ("load_weights", {"path": 5}, "path: should be a valid string"),
    ("load_weights", {"path": "x", "optimizer": "perhaps"}, "optimizer: should be a valid boolean"),
    ("save_weights_for_sampler", {"sampling_session_seq_id": 0, "kind": "other"}, "kind"),
    ("save_weights_for_sampler", {"sampling_session_seq_id": 2**63}, "sampling_session_seq_id"),
    ("save_weights_external", {"path": "a", "age_encryption_recipients": ["age1"]}, "does not encrypt"),
]


@pytest.mark.parametrize(("path", "body", "sentence"), WRONG, ids=[sentence for *_, sentence in WRONG])
async def test_what_is_wrong_with_a_request_fails_its_future_and_not_the_next(wronged_run, path, body, sentence):
    run, number = wronged_run, next(wronged_run.numbers)
    failed = await run.promised(path, body, number)
    assert await run.promised(path, body, number) == failed, "a repetition"
    answer = await run.result(failed)
    assert (answer["category"], sentence in answer["error"], "\n" in answer["error"]) == ("user", True, False), answer
    assert "metrics" in await run.result(await run.promised("forward_backward", passing()))


@pytest.mark.parametrize(("path", "sentence"), [("tinker://no/weights/x", "no checkpoint"), ("x", "is no path")])
async def test_a_wrong_path_fails_the_future_and_not_the_next(run, path, sentence):
    answer = await run.result(await run.promised("load_weights", {"path": path}))
    assert (answer["category"], sentence in answer["error"]) == ("user", True), answer
    assert "metrics" in await run.result(await run.promised("forward_backward", passing()))


async def test_a_paused_model_fails_the_future_with_the_reason(run, team):
    slug = run.id.replace(":", "-")
    model = (await team.http.get(f"/v2/models/resolve?model={slug}")).json()["id"]
    await team.http.post(f"/v2/models/{model}/pause", json={"reason": "for a test"})
    answer = await run.result(await run.promised("forward_backward", passing()))
    assert (answer["category"], "for a test" in answer["error"]) == ("user", True)
    await team.http.post(f"/v2/models/{model}/resume")
    assert "metrics" in await run.result(await run.promised("forward_backward", passing()))


async def test_while_nothing_comes_the_client_asks_again_and_knows_why(run, trainer, monkeypatch):
    monkeypatch.setattr("server.protocols.tinker.futures.POLL_S", 0.2)
    trainer.paused = True
    try:
        first = await run.promised("forward_backward", passing())
        reply = await run.fetch(first)
        held = await run.fetch(await run.promised("optim_step", {"adam_params": {}}, 3))
    finally:
        trainer.paused = False
    assert reply.status_code == 408
    assert reply.json() == {
        "type": "try_again",
        "request_id": first,
        "queue_state": "active",
        "queue_state_reason": "the trainer is busy with earlier operations",
    }
    assert "request 2 of this run" in held.json()["queue_state_reason"]


async def test_what_belongs_to_others_is_not_found(run, other_team):
    promise = await run.promised("forward_backward", passing())
    theirs = Run(other_team.http, run.id, run.session_id, count(2))
    for reply in (
        await theirs.fetch(promise),
        await theirs.fetch("0" * 32),
        await theirs.fetch("model-" + "0" * 32),
        await theirs.fetch("nonsense"),
        await theirs.post("forward_backward", {"seq_id": 1, **passing()}),
        await theirs.post("get_info"),
        await theirs.http.post(f"{ROOT}/cancel_future", json={"request_id": promise}),
    ):
        assert (reply.status_code, bool(reply.json()["detail"])) == (404, True), reply.text
    assert (await run.http.post(f"{ROOT}/cancel_future", json={"request_id": promise})).status_code == 200


async def test_many_polls_at_once_hold_no_connection(run, trainer, database: AsyncDatabase):
    trainer.paused = True
    try:
        promise = await run.promised("forward_backward", passing())
        polls = [asyncio.create_task(run.result(promise)) for _ in range(60)]
        await asyncio.sleep(0.5)
        assert (await run.post("get_info")).status_code == 200
        assert not any(poll.done() for poll in polls)
    finally:
        trainer.paused = False
    results = await asyncio.gather(*polls)
    assert all(result == results[0] for result in results)


async def test_a_run_goes_on_from_a_checkpoint_of_another(run, team, base, database: AsyncDatabase):
    await run.result(await run.promised("forward_backward", passing()))
    await run.result(await run.promised("optim_step", {"adam_params": {}}))
    node = (await _nodes(database, run))[0]
    path = f"tinker://{run.id}/weights/{node.name}"
    body = {"session_id": run.session_id, "model_seq_id": 1, "path": path, "optimizer": False}
    loaded = (await team.http.post(f"{ROOT}/load_weights", json=body)).json()
    assert loaded["model_id"] == f"{run.session_id}:train:1"
    assert (await team.http.post(f"{ROOT}/load_weights", json=body)).json()["model_id"] == loaded["model_id"]
    assert await run.result(loaded["request_id"]) == {
        "type": "load_weights", "model_id": loaded["model_id"], "path": path
    }  # fmt: skip
    later = Run(team.http, loaded["model_id"], run.session_id, count(1))
    (root,) = await _nodes(database, later)
    assert (root.files_id, root.state_removed_at is not None) == (node.files_id, True)

    older = await made(team, base)
    promise = await older.promised("load_weights", {"path": path, "optimizer": True})
    assert (await older.result(promise))["path"] == path
    assert await older.promised("load_weights", {"path": path, "optimizer": True}, 1) == promise
    (root,) = await _nodes(database, older)
    assert (root.files_id, root.state_removed_at) == (node.files_id, None)
    assert "metrics" in await older.result(await older.promised("forward_backward", passing(), 2))
    too_late = await older.result(await older.promised("load_weights", {"path": path}, 3))
    assert "first request alone" in too_late["error"]


async def _nodes(database: AsyncDatabase, run: Run) -> list[Any]:
    index = int(run.id.rpartition(":")[2])
    async with database.connection() as connection:
        found = await connection.execute(
            "select c.* from checkpoints c join models m on m.id = c.model_id "
            "where m.session_id = %s and m.session_index = %s order by c.step",
            [run.session_id, index],
        )
        return await found.fetchall()


async def test_a_crowd_of_polls_starves_no_heartbeat(team, base, trainer, database_url: str, tmp_path: Path):
    """128 results that nobody has yet and the heartbeats of 32 sessions, with three connections."""
    settings = ServerSettings(database_url, f"file://{tmp_path}", "token", limits=LIMITS, database_pool_size=3)
    async with serving(create_app(settings)) as url, AsyncExitStack() as clients:
        options = {"base_url": url, "headers": {"X-API-Key": team.key}, "trust_env": False, "verify": False}
        crowd = [  # a client looks through all its connections for each request
            await clients.enter_async_context(httpx.AsyncClient(timeout=60, **options)) for _ in range(4)
        ]
        run = await made(Team(team.name, team.key, crowd[0]), base)
        opened = await asyncio.gather(*(http.post(f"{ROOT}/create_session", json={}) for http in crowd * 8))
        trainer.paused = True
        try:
            promise = {"request_id": await run.promised("forward_backward", passing())}
            polls = [
                asyncio.create_task(http.post(f"{ROOT}/retrieve_future", json=promise))
                for http in crowd
                for _ in range(32)
            ]
            await asyncio.sleep(1)
            started = time.monotonic()
            beats = [{"session_id": reply.json()["session_id"]} for reply in opened]
            asked = zip(crowd * 8, beats, strict=True)
            alive = await asyncio.gather(*(http.post(f"{ROOT}/session_heartbeat", json=beat) for http, beat in asked))
            took_s = time.monotonic() - started
            assert not any(poll.done() for poll in polls)
        finally:
            trainer.paused = False
        assert {reply.status_code for reply in alive} == {200}
        assert took_s < 10, "a client warns after 120 s"
        assert {reply.status_code for reply in await asyncio.gather(*polls)} == {200}
