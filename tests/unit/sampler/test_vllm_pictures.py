"""What a sampler remembers of pictures that its vLLM has, and what it does when that has them no more."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from sampler.backends.vllm.base_facts import blindness, rule_of
from sampler.backends.vllm.canary_check import CanaryCheck, Question
from sampler.backends.vllm.media import HandedOver, PicturesLost, features
from tests.vision.families import FAMILIES, drawn, png_of, save_vision_family
from wire.canary import Canary, PictureCanary
from wire.errors import CorruptCheckpoint, HeadwayError, InvalidRequest, NotFound, Unavailable
from wire.picture_rule import PictureRule, rule_in
from wire.sampling import MediaItem

BLOCK = 16
PLACEHOLDER, TEMPLATE = 7, 8
BYTES = 2 * 3 * BLOCK * BLOCK
"""Of a picture of one token, in vLLM's cache."""


@pytest.fixture(scope="module", params=FAMILIES)
def rule(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PictureRule:
    folder = tmp_path_factory.mktemp("base")
    save_vision_family(FAMILIES[request.param], folder)
    found = rule_in(folder)
    assert found is not None
    return replace(found, placeholder_id=PLACEHOLDER)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> PictureRule:
    folder = tmp_path_factory.mktemp("qwen")
    save_vision_family(FAMILIES["qwen3_vl"], folder)
    found = rule_in(folder)
    assert found is not None
    return replace(found, placeholder_id=PLACEHOLDER, min_pixels=BLOCK * BLOCK)


def picture(number: int, start: int = 0, num_tokens: int = 1) -> MediaItem:
    return MediaItem(start=start, num_tokens=num_tokens, name=f"{number:064x}", width=BLOCK * num_tokens, height=BLOCK)


class Server:
    """Expands prompts as vLLM does, a text token on either side of a run, and fails as often as it is told to."""

    def __init__(self, num_tokens: int = 1) -> None:
        self.num_tokens = num_tokens
        self.asked = Counter[str]()
        self.bodies: list[dict[str, Any]] = []
        self.failures: list[HeadwayError] = []
        self.lock = threading.Lock()

    def __call__(self, body: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            self.bodies.append(body)
            if self.failures:
                raise self.failures.pop(0)
            assert body["token_ids"] == [TEMPLATE] * len(body["content_parts"])
            self.asked.update(part["uuid"] for part in body["content_parts"])
            ids, places = list[int](), list[dict[str, int]]()
            for _ in body["content_parts"]:
                places.append({"offset": len(ids), "length": self.num_tokens + 2})
                ids += [1, *[PLACEHOLDER] * self.num_tokens, 2]
            return {"prompt_token_ids": ids, "mm_placeholders": {"image": places}}


class Bytes(dict[str, bytes]):
    """The same for every name."""

    def __init__(self, width: int = BLOCK, height: int = BLOCK) -> None:
        super().__init__()
        self._png = png_of(drawn(1, width, height))

    def __missing__(self, name: str) -> bytes:
        return self._png


def handed_over(qwen: PictureRule, server: Server, num_pictures: float = 100) -> HandedOver:
    return HandedOver(qwen, TEMPLATE, int(num_pictures * BYTES / 0.75) + 1, server)


def test_a_picture_is_handed_over_once_by_its_name(qwen):
    server = Server()
    held = handed_over(qwen, server)
    for _ in range(2):
        held.hand_over([picture(1), picture(2, 5), picture(1, 9)], Bytes())
    held.hand_over([picture(2), picture(3)], Bytes())
    assert server.asked == {picture(number).name: 1 for number in (1, 2, 3)}
    (part, _), (other,) = (body["content_parts"] for body in server.bodies)
    assert part["url"].startswith("data:image/png;base64,")
    assert other["uuid"] == picture(3).name
    held.forget_all()
    held.hand_over([picture(1)], Bytes())
    assert server.asked[picture(1).name] == 2, "the server is another one"


def test_many_are_handed_over_a_few_at_a_time(qwen):
    server = Server()
    handed_over(qwen, server).hand_over([picture(number) for number in range(20)], Bytes())
    assert [len(body["content_parts"]) for body in server.bodies] == [8, 8, 4]


def test_what_was_not_used_for_long_is_handed_over_again(qwen):
    server = Server()
    held = handed_over(qwen, server, 2)
    for number in (1, 2, 1, 3, 1, 2):
        held.hand_over([picture(number)], Bytes())
    assert server.asked == {picture(1).name: 1, picture(2).name: 2, picture(3).name: 1}


def test_more_than_vllm_keeps_are_refused(qwen):
    held = handed_over(qwen, Server(), 2)
    held.hand_over([picture(1), picture(2), picture(1, 5)], Bytes())
    with pytest.raises(InvalidRequest, match="--mm-processor-cache-gb"):
        held.hand_over([picture(1), picture(2), picture(3)], Bytes())


async def test_prompts_that_come_together_hand_a_picture_over_once(qwen):
    server = Server()
    held = handed_over(qwen, server)
    loop, gate = asyncio.get_running_loop(), threading.Event()
    original = server.__call__

    def slow(body: dict[str, Any]) -> dict[str, Any]:
        gate.wait(10)
        return original(body)

    held._ask = slow

    async def answer() -> str:
        return "answer"

    prompts = [[picture(1), picture(number)] for number in (2, 3, 1)]
    asking = [asyncio.ensure_future(held.asked(media, Bytes(), answer)) for media in prompts]
    loop.call_later(0.1, gate.set)
    assert await asyncio.gather(*asking) == ["answer"] * 3
    assert server.asked == {picture(number).name: 1 for number in (1, 2, 3)}
    held.close()


async def test_whoever_waits_for_one_that_failed_hands_it_over_himself(qwen):
    server = Server()
    server.failures = [Unavailable("it dies")]
    held = handed_over(qwen, server)
    gate, original = threading.Event(), server.__call__

    def slow(body: dict[str, Any]) -> dict[str, Any]:
        gate.wait(10)
        return original(body)

    held._ask = slow

    async def answer() -> str:
        return "answer"

    asking = [asyncio.ensure_future(held.asked([picture(1)], Bytes(), answer)) for _ in range(2)]
    asyncio.get_running_loop().call_later(0.1, gate.set)
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert sorted(map(type, found), key=str) == [str, Unavailable]
    assert server.asked[picture(1).name] == 1
    held.close()


@pytest.mark.parametrize("blocks", [False, True])
async def test_a_prompt_over_which_vllm_stumbles_is_asked_once_more(qwen, blocks):
    server, errors = Server(), [HeadwayError("Internal server error")]
    held = handed_over(qwen, server)

    def ask_now() -> str:
        if errors:
            raise errors.pop(0)
        return "answer"

    async def ask() -> str:
        return ask_now()

    async def asked(media: list[MediaItem]) -> str:
        if blocks:
            return await asyncio.to_thread(held.asked_now, media, Bytes(), ask_now)
        return await held.asked(media, Bytes(), ask)

    assert await asked([picture(1)]) == "answer"
    assert server.asked[picture(1).name] == 2
    errors[:] = [HeadwayError("again"), HeadwayError("and again")]
    with pytest.raises(PicturesLost, match="and again"):
        await asked([picture(1)])
    errors[:] = [NotFound("no such adapter"), HeadwayError("not asked")]
    with pytest.raises(NotFound):
        await asked([picture(1)])
    errors[:] = [HeadwayError("of text"), HeadwayError("not asked")]
    with pytest.raises(HeadwayError, match="of text"):
        await asked([])
    held.close()


def test_handing_over_is_tried_twice_where_vllms_front_believes_it_has_it(qwen):
    server = Server()
    server.failures = [HeadwayError("cache drift")]
    handed_over(qwen, server).hand_over([picture(1)], Bytes())
    assert server.asked[picture(1).name] == 1


def test_another_number_of_tokens_than_the_rule_says_is_refused(rule):
    size = {"width": 64, "height": 48}
    num_tokens = rule.num_tokens(**size)
    item = MediaItem(start=0, num_tokens=num_tokens, name="0" * 64, **size)
    HandedOver(rule, TEMPLATE, 2**30, Server(num_tokens)).hand_over([item], Bytes(**size))
    with pytest.raises(Unavailable, match=f"makes {num_tokens + 1} tokens .* {num_tokens} by the base's files"):
        HandedOver(rule, TEMPLATE, 2**30, Server(num_tokens + 1)).hand_over([item], Bytes(**size))


def test_bytes_of_another_size_than_the_prompt_says_are_not_handed_over(qwen):
    server = Server()
    with pytest.raises(InvalidRequest, match="of 32×16 RGB, and not of 16×16"):
        handed_over(qwen, server).hand_over([picture(1)], Bytes(2 * BLOCK, BLOCK))
    assert not server.bodies


@pytest.mark.parametrize(("changed", "reason"), [({"do_pan_and_scan": True}, "crops"), (None, "no settings")])
def test_a_base_whose_pictures_cannot_be_read_is_served_as_text(tmp_path, changed, reason):
    save_vision_family(FAMILIES["gemma3"], tmp_path)
    assert rule_of(tmp_path) is not None
    file = tmp_path / "preprocessor_config.json"
    if changed is None:
        file.unlink()
        (tmp_path / "processor_config.json").unlink()
    else:
        file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    with capture_logs() as lines:
        assert rule_of(tmp_path) is None
    assert reason in lines[0]["reason"]


def test_a_request_names_pictures_by_the_runs_that_stand_for_them():
    assert features([]) == {}
    assert features([picture(1, 3, 2), picture(2, 9)])["features"] == {
        "mm_hashes": {"image": [picture(1).name, picture(2).name]},
        "mm_placeholders": {"image": [{"offset": 3, "length": 2}, {"offset": 9, "length": 1}]},
        "kwargs_data": None,
    }


def test_what_cannot_be_computed_on_a_cpu_is_refused_there(rule):
    assert blindness(None, "cpu") == ""
    assert bool(blindness(rule, "cpu")) == rule.two_way
    assert blindness(rule, "cuda") == ""
    assert blindness(rule, None) == "", "of a server that was attached to nobody knows"


CANARY = Canary(
    list(range(20)), [5] * 20, [-1.0] * 20, "float32", PictureCanary([1, 9, 9, 2, 3], 1, 2, [4, 5, 6], [-2.0] * 3)
)


def test_a_canary_asks_behind_its_picture_where_the_base_takes_any():
    asked = list[Question]()

    def logprob_of(_: str, question: Question) -> float:
        asked.append(question)
        return -2.0 if question.media else -1.0

    CanaryCheck(logprob_of).check("adapter", CANARY)
    assert not any(question.media for question in asked)
    asked.clear()
    CanaryCheck(logprob_of, sees=True).check("adapter", CANARY)
    behind = [question for question in asked if question.media]
    assert sorted((question.prompt, question.token_id) for question in behind) == [
        ([1, 9, 9], 4),
        ([1, 9, 9, 2], 5),
        ([1, 9, 9, 2, 3], 6),
    ]
    assert {(item.start, item.num_tokens, item.width, item.height) for q in behind for item in q.media} == {
        (1, 2, 64, 48)
    }


def test_a_canary_is_refused_for_what_is_wrong_behind_its_picture_alone():
    check = CanaryCheck(lambda _, question: -2.1 if question.media else -1.0, sees=True)
    with pytest.raises(CorruptCheckpoint, match="logprobs behind a picture differ from the trainer's by 0.1 nats"):
        check.check("adapter", CANARY)
