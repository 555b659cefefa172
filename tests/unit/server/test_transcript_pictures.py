"""Pictures of a rollout as its pages have them: in the order of what was said, and where the agent clicked."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from server.pages.rollouts.aligning import is_same, row_of
from server.rollouts.seen_pictures import Click, SeenPicture, click_in, picture_in
from server.rollouts.transcript import Scene, build_transcript
from store.rollouts import Conversation, RecordedSample, RecordedSpan, Resolved
from store.rollouts.contents import taken_out
from tests.pages.rollouts import span
from wire.extension import Media
from wire.trajectories import Turn

FIRST, SECOND = "1" * 64, "2" * 64
PNG = io.BytesIO()
Image.new("RGB", (40, 30)).save(PNG, "PNG")
BASE64 = base64.b64encode(PNG.getvalue()).decode()
RAW = hashlib.sha256(PNG.getvalue()).hexdigest()


def media(start: int, name: str) -> Media:
    return Media(start, 4, bytes.fromhex(name), 1280, 800)


def part(name: str) -> dict[str, Any]:
    return {"type": "picture", "name": name, "width": 1280, "height": 800}


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}


def sample(prompt: Sequence[int], *seen: Media, said: Conversation | None = None) -> RecordedSample:
    now = datetime.now(UTC)
    turn = Turn(np.array(prompt, np.int32), np.array([1, 2], np.int32), np.zeros(2, np.float32), seen)
    return RecordedSample(uuid.uuid4().bytes, now, turn, None, now, "c", None, None, {}, "stop", 0.1, said)


def step(number: int, source: str, of: RecordedSample | None = None, **payload: Any) -> RecordedSpan:
    said = span(uuid.uuid4(), number, source, **payload)
    digest = of.digest if of else None
    now = datetime.now(UTC)
    return RecordedSpan(str(number), now, "hud.step.v1", "s", number, source, None, None, digest, None, 1, said)


def scenes(samples: Sequence[RecordedSample], steps: Sequence[RecordedSpan] = ()) -> list[Scene]:
    resolved = Resolved(cast(Any, None), tuple(samples), bool(steps))
    return build_transcript(resolved, (), steps).scenes


def shown(found: Sequence[Scene]) -> list[tuple[str, list[str]]]:
    return [(scene.title, [one.name for part in scene.parts for one in part.pictures]) for scene in found]


def test_pictures_of_recorded_messages_stand_where_they_were_sent():
    asked = [user({"type": "text", "text": "before"}, part(FIRST), part(SECOND), {"type": "text", "text": "after"})]
    found = scenes([sample(range(20), media(2, FIRST), media(8, SECOND), said=Conversation({}, asked, call("wait")))])
    assert shown(found) == [("User", [FIRST, SECOND]), ("Agent", [])]
    assert [(one.text, len(one.pictures)) for one in found[0].parts] == [("before", 0), ("", 2), ("after", 0)]


def test_a_screenshot_of_telemetry_is_named_by_its_bytes():
    turn = sample(range(20), media(2, FIRST))
    result = {"content": [{"type": "text", "text": "ok"}, {"type": "image", "data": BASE64, "mimeType": "image/png"}]}
    found = scenes([turn], [step(1, "tool", call={"name": "look"}, result=result), step(2, "agent", turn, content="!")])
    assert shown(found) == [("Tool look", [RAW]), ("Agent", [])]
    assert found[0].parts[1].pictures == (SeenPicture(RAW, 40, 30),)


def test_a_screenshot_that_telemetry_had_is_named_by_its_mark():
    big = io.BytesIO()
    Image.effect_noise((64, 48), 99).save(big, "PNG")
    result = {
        "content": [{"type": "image", "data": base64.b64encode(big.getvalue()).decode(), "mimeType": "image/png"}]
    }
    marked, contents = taken_out(result)
    (name,) = contents
    for said in (result, marked):
        (found,) = scenes([], [step(1, "tool", call={"name": "look"}, result=said)])
        assert found.parts[0].pictures == (SeenPicture(name, 64, 48),)


def test_a_picture_that_is_not_kept_is_named_and_what_the_turn_saw_shown():
    turn = sample(range(20), media(2, FIRST))
    result = {"content": [{"type": "image", "data": BASE64, "mimeType": "image/png"}]}
    steps = [step(1, "tool", call={"name": "look"}, result=result), step(2, "agent", turn, content="!")]
    resolved = Resolved(cast(Any, None), (turn,), True)
    found = build_transcript(resolved, (), steps, {FIRST}).scenes
    assert shown(found) == [("Tool look", []), ("Agent", [FIRST])]
    assert found[0].parts[0].text == "[a picture that is not kept by itself]"
    assert shown(build_transcript(resolved, (), steps, {FIRST, RAW}).scenes)[0] == ("Tool look", [RAW])


def test_what_a_turn_saw_is_shown_with_it_where_nobody_else_shows_it():
    first = sample(range(10), media(2, FIRST))
    second = sample([*range(10), 1, 2, *range(8)], media(2, FIRST), media(13, SECOND))
    steps = [step(1, "agent", first, content="a"), step(2, "agent", second, content="b")]
    assert shown(scenes([first, second], steps)) == [("Agent", [FIRST]), ("Agent", [SECOND])]
    rewritten = sample(range(9), media(1, FIRST), media(5, SECOND))
    steps[1] = step(2, "agent", rewritten, content="b")
    assert shown(scenes([first, rewritten], steps)) == [("Agent", [FIRST]), ("Agent", [SECOND])]


def test_an_equal_screenshot_that_comes_again_is_shown_again():
    first = sample(range(10), media(2, FIRST))
    second = sample([*range(10), 1, 2, *range(8)], media(2, FIRST), media(13, FIRST))
    steps = [step(1, "agent", first, content="a"), step(2, "agent", second, content="b")]
    assert shown(scenes([first, second], steps)) == [("Agent", [FIRST]), ("Agent", [FIRST])]


def test_a_click_is_marked_on_the_picture_that_was_seen_last():
    asked = [user(part(FIRST), part(SECOND))]
    reply = call("computer", action="left_click", coordinate=[640, 400])
    found = scenes([sample(range(20), media(2, FIRST), media(8, SECOND), said=Conversation({}, asked, reply))])
    first, second = found[0].parts[0].pictures
    assert (first.clicks, second.clicks) == ((), (Click(640, 400),))
    assert second.words == "Picture, 1280 × 800 pixels, clicked at 640, 400"
    assert (second.shown_size, second.mark) == ((320, 200), 28)


def test_a_click_beside_the_picture_is_not_marked():
    reply = call("click", x=1281, y=5)
    found = scenes([sample(range(20), media(2, FIRST), said=Conversation({}, [user(part(FIRST))], reply))])
    assert found[0].parts[0].pictures[0].clicks == ()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"x": 3, "y": 4.5}, Click(3, 4.5)),
        ('{"coordinate": [3, 4]}', Click(3, 4)),
        ({"start_box": "(10,20)"}, Click(10, 20)),
        ({"start_box": [10, 20, 30, 60]}, Click(20, 40)),
        ({"action": "tap", "point": [1, 2]}, Click(1, 2)),
        ({"action": "mouse_move", "coordinate": [3, 4]}, None),
        ({"x": True, "y": 4}, None),
        ({"x": -1, "y": 4}, None),
        ({"x": float("nan"), "y": 4}, None),
        ({"coordinate": [3]}, None),
        ({"coordinate": "3, 4"}, None),
        ("[" * 100_000, None),
        ("no JSON", None),
        (None, None),
    ],
)
def test_where_a_call_clicks(arguments: Any, expected: Click | None):
    assert click_in(arguments) == expected


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (part(FIRST), SeenPicture(FIRST, 1280, 800)),
        ({"type": "picture", "name": "../x", "width": 1, "height": 1}, None),
        ({"type": "picture", "name": FIRST, "width": -1, "height": "9"}, SeenPicture(FIRST)),
        ({"type": "image_url", "image_url": {"url": f"sha256:{FIRST}"}}, SeenPicture(FIRST)),
        ({"type": "input_image", "image_url": f"data:image/png;base64,{BASE64}"}, SeenPicture(RAW, 40, 30)),
        ({"type": "image", "source": {"type": "base64", "data": BASE64}}, SeenPicture(RAW, 40, 30)),
        ({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}, None),
        ({"type": "image", "data": "no base64!"}, None),
        ({"type": "image", "data": 3}, None),
        ({"type": "text", "text": "x"}, None),
    ],
)
def test_blocks_with_pictures(block: dict[str, Any], expected: SeenPicture | None):
    assert picture_in(block) == expected


def test_two_rollouts_that_say_the_same_about_other_pictures_differ():
    one, other = (
        scenes([sample(range(20), media(2, name), said=Conversation({}, [user(part(name))], call("wait")))])
        for name in (FIRST, SECOND)
    )
    assert is_same(one[0], one[0])
    assert not is_same(one[0], other[0])
    (left,), (right,) = row_of(one[0], other[0]).texts
    assert (left.other_pictures, right.other_pictures) == (True, True)
    assert json.dumps([text.other_pictures for text in row_of(one[0], one[0]).texts[0]]) == "[false]"


@pytest.mark.parametrize("kind", ["mcp", "chat", "responses", "anthropic"])
def test_a_picture_whose_bytes_are_a_blob_is_the_same_picture(kind: str):
    png = io.BytesIO()
    Image.effect_noise((64, 48), 50).save(png, "PNG")
    data = base64.b64encode(png.getvalue()).decode()
    block: dict[str, Any] = {
        "mcp": {"type": "image", "data": data, "mimeType": "image/png"},
        "chat": {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        "responses": {"type": "input_image", "image_url": f"data:image/png;base64,{data}"},
        "anthropic": {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
    }[kind]
    short, contents = taken_out(block)
    assert picture_in(short) == picture_in(block) == SeenPicture(next(iter(contents)), 64, 48)
