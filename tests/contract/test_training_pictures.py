"""Training calls whose prompts hold pictures: whichever form they come in, the trainer gets the same."""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select

from server.protocols.tinker.messages import tinker_pb2 as pb
from store.database import AsyncDatabase
from store.tables import ModelRow, OperationRow
from tests.contract.conftest import CONTEXT, VOCABULARY, Team, num_operations
from tests.contract.stand_ins import register_trainer
from tests.contract.test_training_runs import PROTOBUF, ROOT, Run, made
from tests.unit.server.pictures.drawn import bomb, encoded, gradient
from wire.datum_payload import decode_datums
from wire.datums import Datum
from wire.picture_rule import PictureRule

PLACEHOLDER = 100
RULE = PictureRule(
    kind="patches",
    placeholder_id=PLACEHOLDER,
    patch=8,
    merge=2,
    min_pixels=256,
    max_pixels=65_536,
    tokens=0,
    axes=3,
    two_way=False,
    template_text="<|image_pad|>",
    text_before="",
    text_after="",
    preprocessing="pillow",
)
RED, BLUE = (encoded(Image.new("RGB", (32, 32), colour)) for colour in ("red", "blue"))
WIDE = encoded(gradient(64, 32), "JPEG")
NUM_TOKENS = 4


@pytest.fixture(scope="module")
async def seeing_base(base: ModelRow, database: AsyncDatabase) -> AsyncIterator[ModelRow]:
    """Where some base reads pictures, bodies may be larger, which other tests are about: at the end none does."""
    info = {"vocab_size": VOCABULARY, "context_length": CONTEXT, "architecture": "T", "dtype": "d"}
    async with database.session() as session:
        slug = f"org/Tiny-Eyes-{uuid.uuid4().hex[:8]}"
        seeing = ModelRow(slug=slug, name=slug, weights="/nowhere")
        seeing.info = {**info, "num_parameters": 1, "pictures": RULE.to_json()}
        session.add(seeing)
    await register_trainer(database, seeing.id)
    yield seeing
    async with database.session() as session:
        (await session.get_one(ModelRow, seeing.id)).info = {**info, "num_parameters": 1, "pictures": None}


@pytest.fixture
async def model(team: Team, seeing_base: ModelRow) -> dict[str, Any]:
    return await team.fork(str(seeing_base.id))


def text(*ids: int) -> dict[str, Any]:
    return {"type": "encoded_text", "tokens": list(ids)}


def inline(data: bytes, **more: Any) -> dict[str, Any]:
    return {"type": "image", "data": base64.b64encode(data).decode(), "format": "png", **more}


def pointer(data: bytes, **more: Any) -> dict[str, Any]:
    location = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return {"type": "image_asset_pointer", "location": location, "format": "png", **more}


def turn(*chunks: dict[str, Any], output: tuple[int, ...] = (7, 9)) -> dict[str, Any]:
    return {"prompt_chunks": list(chunks), "output_token_ids": list(output), "output_logprobs": [-0.5] * len(output)}


def batch(*rollouts: list[dict[str, Any]]) -> dict[str, Any]:
    return {"inputs": [{"samples": turns, "reward": float(n)} for n, turns in enumerate(rollouts)]}


async def logged(database: AsyncDatabase, model: dict[str, Any]) -> list[Datum]:
    """Of the last operation."""
    query = select(OperationRow).where(OperationRow.model_id == uuid.UUID(model["id"]))
    async with database.session() as session:
        rows = list(await session.scalars(query.order_by(OperationRow.sequence.desc())))
    datums, _ = decode_datums(rows[0].payload or b"")
    named = {item.name for datum in datums for item in datum.model_input.media}
    assert set(rows[0].pictures or ()) == named
    return datums


async def test_the_trainer_gets_placeholders_and_the_names_of_their_pictures(team, model, database):
    body = batch([turn(text(1, 2), inline(RED), text(3), inline(WIDE, format="jpeg"), text(4))])
    reply = await team.train(model["id"], "forward-backward", body)
    assert reply.status_code == 200, reply.text
    (datum,) = await logged(database, model)
    sequence = datum.model_input
    assert sequence.ids.tolist() == [1, 2, *[PLACEHOLDER] * 4, 3, *[PLACEHOLDER] * 8, 4, 7]
    assert [(item.start, item.num_tokens, item.width, item.height) for item in sequence.media] == [
        (2, 4, 32, 32),
        (7, 8, 64, 32),
    ]
    assert sequence.media[0].digest == hashlib.sha256(RED).digest()
    assert datum.spans.tolist() == [[15, 17]]


async def test_turns_that_repeat_their_pictures_are_one_datum_and_others_are_not(team, model, database):
    first = [text(1), inline(RED), text(2)]
    same = [turn(*first), turn(*first, text(7, 9, 3), inline(BLUE))]
    other = [turn(*first), turn(text(1), inline(BLUE), text(2, 7, 9, 3), inline(BLUE))]
    reply = await team.train(model["id"], "forward-backward", batch(same, other))
    assert reply.status_code == 200, reply.text
    datums = await logged(database, model)
    assert [datum.origin.trajectory_index for datum in datums] == [0, 1, 1]
    assert [len(datum.spans) for datum in datums] == [2, 1, 1]


async def test_inline_and_by_name_are_the_same_request(team, model, database):
    """Whether the same call was sent before is seen by what it asks for: its key would be refused otherwise."""
    forms = [
        [text(1), text(2), inline(RED), text(3)],
        [text(1, 2), pointer(RED), text(3)],
        [text(1, 2), pointer(RED, expected_tokens=NUM_TOKENS), text(), text(3)],
        [text(1, 2), inline(encoded(Image.new("RGBA", (32, 32), "red"))), text(3)],  # the same pixels
    ]
    url, headers = f"/v1/models/{model['id']}/train/forward-backward", {"Idempotency-Key": "once"}
    for form in forms:
        reply = await team.http.post(url, json=batch([turn(*form)]), headers=headers)
        assert reply.status_code == 200, reply.text
    assert await num_operations(database, model["id"]) == 1
    for form in ([text(1, 2), inline(BLUE), text(3)], [text(1, 2, *[PLACEHOLDER] * 4, 3)], [text(1), pointer(RED)]):
        reply = await team.http.post(url, json=batch([turn(*form)]), headers=headers)
        assert reply.status_code == 409, reply.text


async def test_chunks_are_read_and_ids_beside_them_are_not(team, model, database):
    sample = {**turn(text(1), inline(RED), text(2)), "prompt_token_ids": [5, 6]}
    assert (await team.train(model["id"], "forward-backward", batch([sample]))).status_code == 200
    (datum,) = await logged(database, model)
    assert datum.model_input.ids.tolist() == [1, *[PLACEHOLDER] * 4, 2, 7]


async def test_ids_of_pictures_that_were_left_out_are_refused(team, model, database):
    """As text they would train a policy that sees nothing. A placeholder that a policy sampled is text."""
    sample = {name: value for name, value in turn().items() if name != "prompt_chunks"}
    for number, status in ((NUM_TOKENS, 422), (1, 200)):
        body = batch([{**sample, "prompt_token_ids": [1, *[PLACEHOLDER] * number, 2]}])
        reply = await team.train(model["id"], "forward-backward", body)
        assert reply.status_code == status, reply.text
        assert (status == 200) != ("4 placeholders of a picture in a row" in reply.text)
    assert await num_operations(database, model["id"]) == 1


async def test_forwards_have_a_place_for_each_placeholder(team, model, database):
    reply = await team.train(model["id"], "forward", batch([turn(text(1), inline(RED), text(2))]))
    assert reply.status_code == 200, reply.text
    assert len(reply.json()["data"][0]["mask"]) == 1 + NUM_TOKENS + 2


async def test_texts_in_chunks_are_read_on_any_base(team, base, database):
    blind = await team.fork(str(base.id))
    reply = await team.train(blind["id"], "forward-backward", batch([turn(text(1, 2), text(3))]))
    assert reply.status_code == 200, reply.text
    (datum,) = await logged(database, blind)
    assert datum.model_input.ids.tolist() == [1, 2, 3, 7]


GOOD = turn(text(1), inline(RED))
REFUSED = {
    "not base64": ({"type": "image", "data": "%%", "format": "png"}, 422, "chunk 1: data is no base64"),
    "no picture": (inline(b"<svg/>"), 422, "chunk 1: the picture is no picture that is read here"),
    "cut off": (inline(WIDE[:-50]), 422, "chunk 1: the picture is broken or cut off"),
    "a bomb": (inline(bomb(9000)), 413, "chunk 1: the picture"),
    "no data": ({"type": "image", "format": "png"}, 422, "chunk 1: data is no base64"),
    "unknown format": ({**inline(RED), "format": "tiff"}, 422, "chunk 1 has the format 'tiff'"),
    "unknown field": (inline(RED, crop=[1]), 422, "chunk 1: crop of an image chunk is not supported"),
    "another length": (inline(RED, expected_tokens=5), 422, "chunk 1 expects 5 tokens of a picture of 32×32 pixels"),
    "length by name": (pointer(RED, expected_tokens=5), 422, "chunk 1 expects 5 tokens"),
    "a name of nobody's": (pointer(b"other"), 404, "chunk 1: no picture sha256:"),
    "a file": ({**pointer(RED), "location": "file:///etc/passwd"}, 422, "chunk 1: location must be sha256:"),
    "a URL": ({**pointer(RED), "location": "https://example.com/a.png"}, 422, "chunk 1: location must be sha256:"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
async def test_refusals_name_the_turn_and_the_chunk(case, team, model, database):
    chunk, status, sentence = REFUSED[case]
    body = batch([GOOD], [GOOD, turn(text(1), chunk, text(2))])
    reply = await team.train(model["id"], "forward-backward", body)
    assert reply.status_code == status, reply.text
    assert reply.json()["detail"].startswith(f"input 1, sample 1: {sentence}")
    assert await num_operations(database, model["id"]) == 0


async def test_a_picture_is_good_for_the_team_that_sent_it(team, other_team, seeing_base, model):
    assert (await team.train(model["id"], "forward-backward", batch([GOOD]))).status_code == 200
    theirs = await other_team.fork(str(seeing_base.id))
    body = batch([turn(text(1), pointer(RED))])
    reply = await other_team.train(theirs["id"], "forward-backward", body)
    assert reply.status_code == 404
    assert reply.json()["detail"].startswith("input 0, sample 0: chunk 1: no picture")
    assert (await team.train(model["id"], "forward-backward", body)).status_code == 200


async def test_more_pictures_than_a_prompt_may_have(team, model):
    reply = await team.train(model["id"], "forward-backward", batch([turn(text(1), *[pointer(RED)] * 65)]))
    assert reply.status_code == 413
    assert reply.json()["detail"] == "input 0, sample 0 has 65 pictures; at most 64 are taken in a prompt"


async def test_placeholders_count_towards_the_context(team, model):
    large = inline(encoded(Image.new("RGB", (256, 256))))
    reply = await team.train(model["id"], "forward-backward", batch([turn(text(1), large, large, text(2))]))
    assert reply.status_code == 422
    assert f"its 516 tokens are more than the model's context of {CONTEXT}" in reply.json()["detail"]


async def test_a_batch_that_repeats_a_large_picture_holds_it_once(team, model, database):
    noise = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)))
    body = batch(*[[turn(text(1), inline(noise), text(2))]] * 20)
    reply = await team.train(model["id"], "forward-backward", body)
    assert reply.status_code == 200, reply.text
    assert len({item.name for datum in await logged(database, model) for item in datum.model_input.media}) == 1


# Tinker's passes


def pass_over(run: Run, number: int, *chunks: tuple[bytes, int | None] | list[int]) -> bytes:
    """In protobuf, as the SDK writes it: pictures with their numbers of tokens, and texts."""
    sent = pb.ForwardBackwardRequest(model_id=run.id, seq_id=number, loss_fn="cross_entropy")
    one, length = sent.data.add(), 0
    for chunk in chunks:
        added = one.model_input.add()
        if isinstance(chunk, list):
            added.encoded_text.tokens = np.array(chunk, "<i4").tobytes()
            length += len(chunk)
        else:
            added.image.data, added.image.format = chunk[0], "png"
            if chunk[1] is not None:
                added.image.expected_tokens = chunk[1]
            length += chunk[1] or 0
    targets = one.loss_fn_inputs["target_tokens"]
    targets.dense, targets.dtype = np.full(length, 5, "<i8").tobytes(), pb.DTYPE_INT64
    return sent.SerializeToString()


async def promise_of(run: Run, content: bytes) -> str:
    url, headers = f"{ROOT}/forward_backward", {"Content-Type": PROTOBUF}
    promised = await run.http.post(url, content=content, headers=headers)
    assert promised.status_code == 200, promised.text
    return promised.json()["request_id"]


async def answer_of(run: Run, content: bytes) -> dict[str, Any]:
    return await run.result(await promise_of(run, content))


async def test_a_pass_over_pictures_has_a_logprob_for_each_placeholder(team, seeing_base, database):
    run = await made(team, seeing_base)
    content = pass_over(run, next(run.numbers), [1, 2], (RED, 4), [3], (WIDE, 8))
    answer = await answer_of(run, content)
    assert answer["loss_fn_outputs"][0]["logprobs"]["shape"] == [15]
    async with database.session() as session:
        operation = await session.get_one(OperationRow, uuid.UUID(await promise_of(run, content)))
    (datum,), _ = decode_datums(operation.payload or b"")
    assert datum.model_input.ids.tolist() == [1, 2, *[PLACEHOLDER] * 4, 3, *[PLACEHOLDER] * 8]
    assert [item.name for item in datum.model_input.media] == operation.pictures != []


@pytest.mark.parametrize(
    ("chunk", "sentence"),
    [
        ((RED, 5), "datum 0: chunk 1 expects 5 tokens of a picture of 32×32 pixels, which has 4"),
        ((b"<svg/>", 5), "datum 0: chunk 1: the picture is no picture that is read here"),
        ((RED, None), "target_tokens has 2 positions, but the model input has 6 tokens"),
    ],
)
async def test_what_is_wrong_with_a_picture_fails_the_future(chunk, sentence, team, seeing_base):
    run = await made(team, seeing_base)
    answer = await answer_of(run, pass_over(run, next(run.numbers), [1, 2], chunk))
    assert (answer["category"], sentence in answer["error"]) == ("user", True), answer
    assert "metrics" in await answer_of(run, pass_over(run, next(run.numbers), [1, 2], (RED, 4)))


async def test_a_pass_over_a_base_of_text_refuses_pictures_by_name(team, base):
    run = await made(team, base)
    answer = await answer_of(run, pass_over(run, next(run.numbers), [1, 2], (RED, 4)))
    assert answer["error"] == "datum 0: chunk 1 is a picture, and the base of this model takes text alone"


async def test_a_pass_by_pointer_and_another_picture_under_its_number(team, seeing_base):
    run = await made(team, seeing_base)
    await answer_of(run, pass_over(run, next(run.numbers), [1], (RED, 4)))
    one = {
        "model_input": {"chunks": [text(1), pointer(RED)]},
        "loss_fn_inputs": {"target_tokens": {"data": [5] * 5, "dtype": "int64"}},
    }
    body = {"forward_backward_input": {"data": [one], "loss_fn": "cross_entropy"}}
    number = next(run.numbers)
    assert "metrics" in await run.result(await run.promised("forward_backward", body, number))
    one["model_input"]["chunks"] = [text(1), pointer(BLUE)]
    reply = await run.post("forward_backward", {"seq_id": number, **body})
    assert reply.status_code == 400
    assert "another request was sent before" in reply.text
