"""The real clients of training calls with pictures: what they send and read is what is served."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Iterator

import numpy as np
import pytest
import tinker
from sqlalchemy import select
from tinker import types

from store.tables import OperationRow
from tests.contract.test_pictures import (  # noqa: F401 - fixtures
    PLACEHOLDER,
    RULE,
    eyes,
    eyes_script,
    fresh_eyes,
    name_of,
    part,
)
from tests.contract.test_training_pictures import BLUE, RED
from wire.datum_payload import decode_datums

NUM_TOKENS = RULE.num_tokens(32, 32)


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return


def seen(*pictures: bytes, text: tuple[int, ...] = (1, 2)) -> types.ModelInput:
    chunks = [types.ImageChunk(data=data, format="png", expected_tokens=NUM_TOKENS) for data in pictures]
    return types.ModelInput(chunks=[types.EncodedTextChunk(tokens=list(text)), *chunks])


def datum(model_input: types.ModelInput) -> types.Datum:
    targets = np.full(model_input.length, 5, np.int64)
    return types.Datum(model_input=model_input, loss_fn_inputs={"target_tokens": targets})


def by_tinker(origin: str, key: str, base: str) -> tuple[list[int], list[int]]:
    service = tinker.ServiceClient(base_url=origin, api_key=f"tml-{key}")
    training = service.create_lora_training_client(base_model=base, rank=8).result()
    passed = training.forward_backward([datum(seen(RED)), datum(seen(RED, BLUE))], "cross_entropy").result()
    lengths = [len(output["logprobs"].data) for output in passed.loss_fn_outputs]
    wrong = types.ImageChunk(data=RED, format="png", expected_tokens=9)
    odd = training.forward_backward([datum(types.ModelInput(chunks=[wrong]))], "cross_entropy")
    with pytest.raises(tinker.RequestFailedError, match="datum 0: chunk 0 expects 9 tokens"):
        odd.result()
    sampler = service.create_sampling_client(base_model=base).result()
    params = types.SamplingParams(max_tokens=4)
    sampled = sampler.sample(seen(RED, BLUE), num_samples=1, sampling_params=params).result()
    return lengths, list(sampled.sequences[0].tokens)


@pytest.mark.usefixtures("no_proxy")
async def test_tinker_trains_on_pictures_and_samples_after_them(origin, team, eyes, eyes_script):  # noqa: F811
    lengths, tokens = await asyncio.to_thread(by_tinker, origin, team.key, eyes[0].slug)
    assert lengths == [2 + NUM_TOKENS, 2 + 2 * NUM_TOKENS]
    assert tokens
    request = eyes_script.requests[-1]
    assert request.prompt_token_ids == [1, 2, *[PLACEHOLDER] * 2 * NUM_TOKENS]
    assert [item.name for item in request.prompt_media] == [hashlib.sha256(data).hexdigest() for data in (RED, BLUE)]


@pytest.mark.usefixtures("no_proxy")
async def test_hud_sends_back_the_chunks_of_a_reply(origin, team, eyes, database):  # noqa: F811
    from hud.train import TrainingClient, TrajectoryPayload, TrajectorySample

    model = await team.fork(str(eyes[0].id))
    content = [part(RED), {"type": "text", "text": "?"}]
    body = {"model": model["id"], "messages": [{"role": "user", "content": content}], "return_token_ids": True}
    reply = await team.http.post("/chat/completions", json={**body, "logprobs": True})
    assert reply.status_code == 200, reply.text
    choice = reply.json()["choices"][0]
    sample = TrajectorySample(
        prompt_token_ids=choice["prompt_token_ids"],
        prompt_chunks=choice["prompt_chunks"],
        output_token_ids=choice["token_ids"],
        output_logprobs=[one["logprob"] for one in choice["logprobs"]["content"]],
    )
    client = TrainingClient(model["id"], api_key=team.key, base_url=origin, api_url=origin)
    rollouts = [TrajectoryPayload(samples=[sample], reward=reward) for reward in (0.0, 1.0)]
    assert (await client.forward_backward(rollouts, group_size=2)).num_datums == 2
    async with database.session() as session:
        query = select(OperationRow).where(OperationRow.model_id == uuid.UUID(model["id"]))
        (operation,) = await session.scalars(query)
    datums, _ = decode_datums(operation.payload or b"")
    for one in datums:
        length = len(choice["prompt_token_ids"])
        assert one.model_input.ids[:length].tolist() == choice["prompt_token_ids"]
        assert [item.name for item in one.model_input.media] == [name_of(RED)]
