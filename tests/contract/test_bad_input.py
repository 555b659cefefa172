"""Everything that must be refused: the status, one clear sentence, and nothing written down."""

from __future__ import annotations

import asyncio
import json
import uuid

import httpx
import pytest

from server.auth.service import revoke_key
from tests.contract.conftest import LIMITS, VOCABULARY, batch, num_operations, sample, trajectory

JSON = {"Content-Type": "application/json"}
NAN, INF = float("nan"), float("inf")


def one(**changes):
    """A batch whose second input has one sample changed so."""
    return batch(trajectory(), trajectory(samples=[sample(**changes)]))


REFUSED_BATCHES = {
    "incomplete group": (batch(group_size=3), "2 inputs do not make whole groups of 3"),
    "group of zero": (batch(group_size=0), "group_size: should be greater than or equal to 1"),
    "missing logprob": (one(output_logprobs=[-0.2]), "input 1, sample 0 has 2 output tokens but 1 output_logprobs"),
    "extra logprob": (one(output_logprobs=[-0.2] * 3), "input 1, sample 0 has 2 output tokens but 3 output_logprobs"),
    "output id above the vocabulary": (
        one(output_token_ids=[7, VOCABULARY]),
        "input 1, sample 0: output_token_ids holds 128, which is outside the vocabulary of 128 tokens",
    ),
    "prompt id above the vocabulary": (one(prompt_token_ids=[500, 2]), "prompt_token_ids holds 500"),
    "negative id": (one(prompt_token_ids=[-1, 2]), "prompt_token_ids holds -1, which is outside the vocabulary"),
    "id beyond 64 bits": (one(prompt_token_ids=[2**70]), "inputs[1].samples[0].prompt_token_ids: must be a list of"),
    "id beyond 32 bits": (one(prompt_token_ids=[2**40]), f"prompt_token_ids holds {2**40}"),
    "id that is no integer": (
        one(output_token_ids=[7.5, 9]),
        "samples[0].output_token_ids: must be a list of integers",
    ),
    "id that is text": (one(output_token_ids=["7", "9"]), "output_token_ids: must be a list of integers"),
    "empty output": (one(output_token_ids=[], output_logprobs=[]), "input 1, sample 0: output_token_ids is empty"),
    "empty prompt": (one(prompt_token_ids=[]), "input 1, sample 0: prompt_token_ids is empty"),
    "NaN logprob": (
        one(output_logprobs=[NAN, -1]),
        "input 1, sample 0: output_logprobs holds a value",
    ),
    "infinite logprob": (one(output_logprobs=[-1, -INF]), "output_logprobs holds a value that is not a finite number"),
    "logprob too large for a float32": (one(output_logprobs=[-1, -1e300]), "output_logprobs holds a value that is not"),
    "NaN reward": (batch(trajectory(reward=NAN)), "input 0: reward is nan: it must be a finite"),
    "infinite reward": (batch(trajectory(reward=INF)), "input 0: reward is inf: it must be a finite"),
    "enormous reward": (batch(trajectory(reward=1e300)), "input 0: reward is 1e+300: it must be a finite"),
    "reward that is text": (batch(trajectory(reward="1.0")), "inputs[0].reward: should be a valid number"),
    "reward that is null": (batch(trajectory(reward=None)), "inputs[0].reward: should be a valid number"),
    "reward that is a list": (batch(trajectory(reward=[1])), "inputs[0].reward: should be a valid number"),
    "missing reward": (batch({"samples": [sample()]}), "inputs[0].reward is missing"),
    "NaN reward scale": (batch(reward_scale=NAN), "reward_scale is nan"),
    "NaN loss config": (batch(loss_fn="ppo", loss_fn_config={"epsilon": NAN}), "loss_fn_config.epsilon is nan"),
    "unknown loss": (
        batch(loss_fn="reinforce"),
        "unknown loss_fn 'reinforce'; this server knows cispo, cross_entropy, dro, importance_sampling, ppo",
    ),
    "unknown key": (
        batch(loss_fn="cispo", loss_fn_config={"epsilon": 0.2}),
        "cispo has no key 'epsilon'; it knows clip_high_threshold, clip_low_threshold",
    ),
    "too many substeps": (batch(num_substeps=3), "num_substeps is 3, but there are 2 inputs"),
    "a picture": (
        one(prompt_token_ids=None, prompt_chunks=[{"type": "image", "data": "QQ==", "format": "png"}]),
        "input 1, sample 0: chunk 0 is a picture, and the base of this model takes text alone",
    ),
    "a chunk of no known type": (one(prompt_chunks=[{"type": "audio"}]), "input 1, sample 0: chunk 0 has the type"),
    "a chunk that is a text": (one(prompt_chunks=["a"]), "inputs[1].samples[0].prompt_chunks[0]: must be an object"),
    "tokens that are none": (
        one(prompt_chunks=[{"type": "encoded_text", "tokens": [0.5]}]),
        "input 1, sample 0: chunk 0: tokens must be a list of token ids",
    ),
    "tokens out of the vocabulary": (
        one(prompt_chunks=[{"type": "encoded_text", "tokens": [VOCABULARY]}]),
        f"input 1, sample 0: prompt_token_ids holds {VOCABULARY}",
    ),
    "trace id": (
        batch(trajectory(), uuid.UUID(int=7).hex),
        "input 1 (trace 00000000000000000000000000000007): no rollout is on record under this trace id",
    ),
    "list of numbers as input": (batch([1, 2]), "inputs[0]: must not be a list of numbers"),
    "number as input": (batch(5), "inputs: must be a list of trajectories, not of numbers"),
    "no inputs": ({"inputs": []}, "inputs: list should have at least 1 item"),
    "missing inputs": ({}, "inputs is missing"),
    "no samples": (batch(trajectory(samples=[])), "inputs[0].samples: list should have at least 1 item"),
    "unknown field": (batch(learning_rate=1), "unknown field learning_rate"),
    "unknown field of a sample": (one(reward=1), "unknown field inputs[1].samples[0].reward"),
    "longer than the context": (one(prompt_token_ids=[1] * 600), "its 602 tokens are more than the model's context"),
    "list for a loss": (batch(loss_fn=[1]), "loss_fn: must not be a list of numbers"),
    "list for a trace id": (batch(trajectory(trace_id=[1])), "inputs[0].trace_id: must not be a list of numbers"),
}


@pytest.mark.parametrize("case", REFUSED_BATCHES)
async def test_a_bad_batch_is_refused_in_one_sentence(case, standing_team, standing_model, database):
    body, sentence = REFUSED_BATCHES[case]
    url = f"/v1/models/{standing_model['id']}/train/forward-backward"
    reply = await standing_team.http.post(url, content=json.dumps(body), headers=JSON)
    assert reply.status_code == 422, reply.text
    assert sentence in reply.json()["detail"]
    assert "\n" not in reply.json()["detail"]
    assert await num_operations(database, standing_model["id"]) == 0


MALFORMED = {
    "nothing": b"",
    "cut off": b'{"inputs": [{"samples": [{"prompt_token_ids": [1, 2',
    "stray comma": b'{"inputs": [{"samples": [{"prompt_token_ids": [1, 2,]}]}]}',
    "stray number": b'{"inputs": [1 2]}',
    "leading zero": b'{"inputs": [{"samples": [{"prompt_token_ids": [01]}]}]}',
    "no JSON": b"inputs=1",
    "not UTF-8": b'{"inputs": ["\xff\xfe"]}',
    "an array": b"[]",
    "a number": b"1",
    "very deep": b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "half a surrogate pair": b'{"inputs": ["\\ud800"]}',
    "open string": b'{"inputs": ["',
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_malformed_json_is_refused_in_one_sentence(case, standing_team, standing_model, database):
    url = f"/v1/models/{standing_model['id']}/train/forward-backward"
    reply = await standing_team.http.post(url, content=MALFORMED[case], headers=JSON)
    assert reply.status_code == 422, reply.text
    assert reply.json()["detail"]
    assert await num_operations(database, standing_model["id"]) == 0


REFUSED_STEPS = {
    "negative": ({"learning_rate": -1e-4}, "learning_rate is -0.0001: it must be finite and 0 or more"),
    "NaN": ({"learning_rate": NAN}, "learning_rate is nan"),
    "infinite": ({"learning_rate": INF}, "learning_rate is inf"),
    "missing": ({}, "learning_rate is missing"),
    "huge": ({"learning_rate": 1e30}, "learning_rate is 1e+30: it must be finite and 0 or more, up to 1000000"),
    "beta": ({"learning_rate": 1e-4, "beta1": 1.0}, "beta1 is 1.0"),
    "beta next to 1": ({"learning_rate": 1e-4, "beta1": 1 - 1e-16}, "beta1 is 0.9999999999999999"),
    "second beta next to 1": ({"learning_rate": 1e-4, "beta2": 1 - 1e-9}, "beta2 is 0.999999999"),
    "eps": ({"learning_rate": 1e-4, "eps": 0.0}, "eps is 0.0"),
    "denormal eps": ({"learning_rate": 1e-4, "eps": 1e-45}, "eps is 1e-45"),
    "infinite gradient norm": ({"learning_rate": 1e-4, "max_grad_norm": INF}, "max_grad_norm is inf"),
    "NaN gradient norm": ({"learning_rate": 1e-4, "max_grad_norm": NAN}, "max_grad_norm is nan"),
    "huge decay": ({"learning_rate": 1e-4, "weight_decay": 1e30}, "weight_decay is 1e+30"),
    "gradient norm": ({"learning_rate": 1e-4, "max_grad_norm": 0.0}, "max_grad_norm is 0.0"),
    "decay": ({"learning_rate": 1e-4, "weight_decay": -1.0}, "weight_decay is -1.0"),
    "unknown field": ({"learning_rate": 1e-4, "momentum": 1.0}, "unknown field momentum"),
}


@pytest.mark.parametrize("case", REFUSED_STEPS)
async def test_a_bad_step_is_refused_in_one_sentence(case, standing_team, standing_model, database):
    body, sentence = REFUSED_STEPS[case]
    url = f"/v1/models/{standing_model['id']}/train/optim-step"
    reply = await standing_team.http.post(url, content=json.dumps(body), headers=JSON)
    assert reply.status_code == 422, reply.text
    assert sentence in reply.json()["detail"]
    assert await num_operations(database, standing_model["id"]) == 0


async def test_a_step_with_nothing_accumulated_is_refused(team, model):
    reply = await team.train(model["id"], "optim-step", {"learning_rate": 1e-3})
    assert reply.status_code == 409
    assert "no accumulated gradients" in reply.json()["detail"]
    assert (await team.http.get(f"/v2/models/{model['id']}/checkpoints")).json() == []


REFUSED_WEIGHTS = {
    "too few rows": ([[0, 1, 1]], "weights has 1 rows, but the forward pass returned 2 datums"),
    "too short a row": ([[0, 1, 1], [0, 1]], "weights[1] has 2 values, but its datum has 3 positions"),
    "NaN": ([[0, 1, 1], [0, NAN, 1]], "weights[1] holds a value that is not a finite float32 number"),
    "infinite": ([[0, 1, INF], [0, 1, 1]], "weights[0] holds a value that is not a finite float32 number"),
    "text": ([[0, 1, 1], ["a"]], "weights[1]: must be a list of numbers"),
}


@pytest.mark.parametrize("case", REFUSED_WEIGHTS)
async def test_bad_weights_are_refused_and_the_handle_stays(case, team, model, database):
    weights, sentence = REFUSED_WEIGHTS[case]
    handle = (await team.train(model["id"], "forward", batch())).json()["forward_id"]
    url = f"/v1/models/{model['id']}/train/backward"
    reply = await team.http.post(url, content=json.dumps({"forward_id": handle, "weights": weights}), headers=JSON)
    assert reply.status_code == 422, reply.text
    assert sentence in reply.json()["detail"]
    assert await num_operations(database, model["id"]) == 1
    good = {"forward_id": handle, "weights": [[0, 1, 1], [0, 1, 1]]}
    assert (await team.train(model["id"], "backward", good)).status_code == 200


REFUSED_METRICS = {
    "NUL": ({"a\x00": 1.0}, "metrics: the name 'a\\x00' holds a character that cannot be stored"),
    "long": ({"x" * 101: 1.0}, "has 101 characters; it may have 100"),
    "many": ({f"m{i}": 1.0 for i in range(101)}, "metrics has 101 entries; it may have 100"),
    "NaN": ({"a": NAN}, "metrics.a is nan"),
}


@pytest.mark.parametrize("case", REFUSED_METRICS)
async def test_bad_metrics_are_refused_in_one_sentence(case, standing_team, standing_model):
    metrics, sentence = REFUSED_METRICS[case]
    body = {"forward_id": uuid.UUID(int=1).hex, "weights": [[1]], "metrics": metrics}
    url = f"/v1/models/{standing_model['id']}/train/backward"
    reply = await standing_team.http.post(url, content=json.dumps(body), headers=JSON)
    assert reply.status_code == 422, reply.text
    assert sentence in reply.json()["detail"]


@pytest.mark.parametrize("handle", ["nonsense", uuid.UUID(int=1).hex, "\x00", ""])
async def test_an_unknown_forward_is_not_found(handle, standing_team, standing_model):
    reply = await standing_team.train(standing_model["id"], "backward", {"forward_id": handle, "weights": [[1]]})
    assert reply.status_code == 404
    assert "has no forward" in reply.json()["detail"]


@pytest.mark.parametrize("call", ["forward-backward", "forward", "backward", "optim-step"])
@pytest.mark.parametrize("model_id", [str(uuid.UUID(int=1)), "nonsense", "%00"])
async def test_an_unknown_model_is_not_found(call, model_id, standing_team):
    reply = await standing_team.train(model_id, call, {})
    assert reply.status_code == 404
    assert "there is no model" in reply.json()["detail"]


async def test_another_teams_model_is_not_found(other_team, model, database):
    for call in ("forward-backward", "forward", "backward", "optim-step"):
        assert (await other_team.train(model["id"], call, batch())).status_code == 404
    for path in ("", "/checkpoints", "/head"):
        assert (await other_team.http.get(f"/v2/models/{model['id']}{path}")).status_code == 404
    reply = await other_team.http.put(f"/v2/models/{model['id']}/head", json={"checkpoint_id": None})
    assert reply.status_code == 404
    chat = {"model": model["model_name"], "messages": [{"role": "user", "content": "hi"}]}
    assert (await other_team.http.post("/chat/completions", json=chat)).status_code == 404
    fork = {"source_model_id": model["id"], "name": "stolen"}
    assert (await other_team.http.post("/v2/models/fork", json=fork)).status_code == 404
    assert await num_operations(database, model["id"]) == 0


async def test_a_base_model_cannot_be_trained(team, base, database):
    reply = await team.train(str(base.id), "forward-backward", batch())
    assert reply.status_code == 403
    assert "fork it and train the fork" in reply.json()["detail"]
    assert await num_operations(database, str(base.id)) == 0


OPEN = {
    "/healthz",
    "/readyz",
    "/readyz/server",
    "/api/v1/healthz",
    "/api/v1/files/{token}/{file_name}",
    "/v2/builds/{build_id}/archive",
    "/openapi.json",
    "/docs",
    "/redoc",
    "/docs/oauth2-redirect",
}


async def test_every_route_but_the_open_ones_asks_what_comes_as_x_api_key(origin, team):
    routes = (await team.http.get("/openapi.json")).json()["paths"]
    async with httpx.AsyncClient(base_url=origin, trust_env=False) as anonymous:
        for path, methods in routes.items():
            if path in OPEN or path.endswith("/sdk-events/cli"):
                continue
            for method in methods:
                url = path.replace("{trace_id}", uuid.uuid4().hex).replace("{job_id}", uuid.uuid4().hex)
                url = url.replace("{model_id}", "m").replace("{model}", "m")
                content, headers = BODIES.get(path, b"{}"), {**JSON, "X-API-Key": "hw_wrong"}
                reply = await anonymous.request(method, url, content=content, headers=headers)
                assert reply.status_code == 401, (method, path, reply.text)
                if method != "head":  # whose replies have no body
                    assert "API key" in reply.json()["detail"]


CHAT = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}'
BODIES = {"/chat/completions": CHAT, "/completions": b'{"model": "m", "prompt": "hi"}'}


@pytest.mark.parametrize("key", ["", "Authorization: Basic eDp5\r\n", "Authorization: Bearer\r\n"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v2/models/fork", "/trace/x/telemetry-upload", "/nothing"])
async def test_without_a_key_the_body_is_not_waited_for(path, key, team):
    reader, writer = await asyncio.open_connection(team.http.base_url.host, team.http.base_url.port)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: here\r\n{key}Content-Length: 40000\r\n\r\n".encode())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r")[0])
    body = json.loads(await reader.readexactly(length))
    writer.close()
    assert b" 401 " in head
    assert b"www-authenticate: bearer" in head.lower()
    assert "no API key" in body["detail"]
    assert ("error" in body) == path.endswith("/completions")


async def test_a_revoked_key_is_refused_at_once(team, model, database):
    assert (await team.http.get("/v2/auth/me")).status_code == 200
    async with database.session() as session:
        await revoke_key(session, team.key[:10])
    reply = await team.train(model["id"], "forward-backward", batch())
    assert reply.status_code == 401
    assert "was revoked" in reply.json()["detail"]
    assert await num_operations(database, model["id"]) == 0


async def test_a_key_may_come_as_x_api_key(origin, team):
    async with httpx.AsyncClient(base_url=origin, trust_env=False) as client:
        reply = await client.get("/v2/auth/me", headers={"X-API-Key": team.key})
    assert {"user_id", "team_id"} <= set(reply.json())


def spelled_out(num_tokens: int) -> str:
    prompt = ",".join(["7"] * 400)
    turn = f'{{"prompt_token_ids":[{prompt}],"output_token_ids":[1],"output_logprobs":[-1.0]}}'
    return f'{{"inputs":[{{"samples":[{",".join([turn] * (num_tokens // 401))}],"reward":1.0}}]}}'


async def test_a_batch_over_the_token_limit_is_refused(team, model, database):
    url = f"/v1/models/{model['id']}/train/forward-backward"
    fits = await team.http.post(url, content=spelled_out(LIMITS.batch_tokens), headers=JSON)
    assert fits.status_code == 200, fits.text
    refused = await team.http.post(url, content=spelled_out(LIMITS.batch_tokens + 500), headers=JSON)
    assert refused.status_code == 413
    assert f"more than {LIMITS.batch_tokens} tokens" in refused.json()["detail"]
    assert await num_operations(database, model["id"]) == 1


async def test_a_batch_over_the_byte_limit_is_refused(team, model, database):
    content = spelled_out(1000) + " " * LIMITS.training_body_bytes
    reply = await team.http.post(f"/v1/models/{model['id']}/train/forward-backward", content=content, headers=JSON)
    assert reply.status_code == 413
    assert f"larger than {LIMITS.training_body_bytes} bytes" in reply.json()["detail"]
    assert await num_operations(database, model["id"]) == 0


async def test_an_endless_batch_is_refused_while_it_streams_in(team, model, database):
    reader, writer = await asyncio.open_connection(team.http.base_url.host, team.http.base_url.port)
    head = f"POST /v1/models/{model['id']}/train/forward-backward HTTP/1.1\r\nHost: here\r\n"
    head += f"Authorization: Bearer {team.key}\r\nContent-Length: {10**5}\r\n\r\n"
    writer.write(head.encode() + b'{"inputs":[{"samples":[{"prompt_token_ids":[1' + b",7" * 21_000)
    status = await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    assert b"413" in status
    assert await num_operations(database, model["id"]) == 0


async def test_any_other_body_over_its_limit_is_refused(team, model):
    chat = {"model": model["id"], "messages": [{"role": "user", "content": "x" * LIMITS.body_bytes}]}
    reply = await team.http.post("/chat/completions", json=chat)
    assert reply.status_code == 413
    assert reply.json()["error"]["message"] == reply.json()["detail"]


async def test_requests_that_are_never_large_have_a_lower_limit(team, model):
    fork = {"source_model_id": model["id"], "name": "x" * LIMITS.small_body_bytes}
    for method, path in (("POST", "/v2/models/fork"), ("PUT", f"/v2/models/{model['id']}/head")):
        reply = await team.http.request(method, path, json=fork)
        assert reply.status_code == 413
        assert f"larger than {LIMITS.small_body_bytes} bytes" in reply.json()["detail"]
    spans = {"telemetry": ["x" * LIMITS.small_body_bytes]}
    assert (await team.http.post(f"/trace/{uuid.uuid4()}/telemetry-upload", json=spans)).status_code == 200


async def test_set_head_refuses_another_models_checkpoint(team, model, base):
    other = await team.fork(str(base.id))
    checkpoint = (await team.step(other["id"]))["checkpoint_id"]
    for reference in (checkpoint, "nonsense", str(uuid.UUID(int=5)), "\x00", "0001-ffffffff"):
        reply = await team.http.put(f"/v2/models/{model['id']}/head", json={"checkpoint_id": reference})
        assert reply.status_code == 404, reply.text
        assert "has no checkpoint" in reply.json()["detail"]
    assert (await team.http.get(f"/v2/models/{model['id']}/head")).json()["checkpoint_id"] is None


@pytest.mark.parametrize("body", [b"{}", b'{"checkpoint_id": 5}', b"{", b"[]", b'{"checkpoint_id": null, "x": 1}'])
async def test_a_malformed_head_is_refused(body, standing_team, standing_model):
    reply = await standing_team.http.put(f"/v2/models/{standing_model['id']}/head", content=body, headers=JSON)
    assert reply.status_code == 422
    assert isinstance(reply.json()["detail"], str)


@pytest.mark.parametrize("key", ["", "x" * 500])
async def test_an_idempotency_key_is_short_and_printable(key, team, model, database):
    url, headers = f"/v1/models/{model['id']}/train/forward-backward", {"Idempotency-Key": key}
    assert (await team.http.post(url, json=batch(), headers=headers)).status_code == 422
    assert await num_operations(database, model["id"]) == 0
