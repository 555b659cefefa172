"""Pictures in messages of three protocols: one kind of part, in its place, named as the client names it."""

from __future__ import annotations

from typing import Any

import pytest

from server.pictures.taking import LOW_DETAIL, SentPicture
from server.protocols.anthropic import blocks
from server.protocols.openai.responses import items
from server.protocols.openai.unsupported import plain_messages
from server.sampling.image_parts import IMAGE, content_of, joined
from wire.errors import InvalidRequest

URL = "data:image/png;base64,AAAA"


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def sent(where: str, longest_side: int | None = None, url: str = URL) -> dict[str, Any]:
    return {"type": IMAGE, "sent": SentPicture(where, url, longest_side)}


def image(**more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": URL, **more}}


def input_image(**more: Any) -> dict[str, Any]:
    return {"type": "input_image", "image_url": URL, **more}


def block(**source: Any) -> dict[str, Any]:
    return {"type": "image", "source": source or {"type": "base64", "media_type": "image/png", "data": "AAAA"}}


def test_texts_stay_in_one_piece_and_are_parts_beside_a_picture():
    said = [text("a"), text("b")]
    for role in ("user", "assistant", "system"):
        assert plain_messages([{"role": role, "content": said}])[0]["content"] == "ab"
    [message] = plain_messages([{"role": "user", "content": [text("a"), image(detail="low"), text("b")]}])
    assert message["content"] == [text("a"), sent("messages[0].content[1]", LOW_DETAIL), text("b")]
    [_, result] = plain_messages(
        [{"role": "user", "content": "x"}, {"role": "tool", "content": [image(detail="high")]}]
    )
    assert result["content"] == [sent("messages[1].content[0]")]


def test_responses_have_them_in_messages_and_in_the_outputs_of_tools():
    chat = items.chat_messages(
        "Look.",
        [],
        [
            {"role": "user", "content": [{"type": "input_text", "text": "a"}, input_image(detail="low")]},
            {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": [input_image()]},
        ],
    )
    assert chat[1]["content"] == [text("a"), sent("input[0].content[1]", LOW_DETAIL)]
    assert chat[3] == {"role": "tool", "tool_call_id": "c", "content": [sent("input[2].output[0]")]}
    assert plain_messages(chat)[1:] == chat[1:], "responses are sampled as chats"


def test_messages_have_them_in_what_the_user_says_and_in_results():
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "seen"}, block()]}
    use = {"type": "tool_use", "id": "t", "name": "look", "input": {}}
    chat = blocks.chat_messages(
        None,
        [
            {"role": "user", "content": [text("a"), text("b"), block(), text("c")]},
            {"role": "user", "content": "d"},
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [result, block(type="url", url="https://pictures.test/a.png")]},
        ],
    )
    assert [message["role"] for message in chat] == ["user", "assistant", "tool", "user"]
    assert chat[0]["content"] == [text("a\nb"), sent("messages[0].content[2]"), text("c\nd")]
    assert chat[2]["content"] == [text("seen"), sent("messages[3].content[0].content[1]")]
    assert chat[3]["content"] == [sent("messages[3].content[1]", url="https://pictures.test/a.png")]


def test_texts_meet_where_messages_are_joined():
    picture = sent("x")
    assert joined("a", "b", "\n") == "a\nb"
    assert joined("a", [text("b"), picture], "\n") == [text("a\nb"), picture]
    assert joined([picture], "b", "\n") == [picture, text("b")]
    assert joined([picture, text("a")], [picture], "\n") == [picture, text("a"), picture]
    assert content_of([]) == ""


CHATS: dict[str, tuple[dict[str, Any], str]] = {
    "of the policy": ({"role": "assistant", "content": [image()]}, "a picture in a message of the assistant's"),
    "of the instructions": ({"role": "developer", "content": [image()]}, "a picture in a message of the system's"),
    "without an object": ({"role": "user", "content": [{"type": "image_url", "image_url": URL}]}, "must be an object"),
    "without a URL": ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "must have a URL"),
    "of a number": ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": 7}}]}, "must have a URL"),
    "nothing at all": ({"role": "user", "content": [{"type": "image_url"}]}, "image_url must be an object"),
    "odd detail": ({"role": "user", "content": [image(detail="most")]}, "detail must be auto, low or high"),
    "detail that is a list": ({"role": "user", "content": [image(detail=[])]}, "detail must be auto, low or high"),
    "another field": ({"role": "user", "content": [image(crop=1)]}, "crop"),
    "a file": ({"role": "user", "content": [{"type": "file", "file": {}}]}, "'file', which is not served"),
    "a name that only we give": (
        {"role": "user", "content": [{"type": "picture", "name": "0" * 64, "width": 1, "height": 1}]},
        "must be a part of type 'text'",
    ),
    "one that was read already": (
        {"role": "user", "content": [{"type": "image_url", "sent": {"where": "x", "source": URL}}]},
        "sent",
    ),
}
ITEMS: dict[str, tuple[dict[str, Any], str]] = {
    "of the policy": ({"role": "assistant", "content": [input_image()]}, r"input\[0\].content\[0\] is a picture"),
    "of the instructions": ({"role": "system", "content": [input_image()]}, r"input\[0\].content\[0\] is a picture"),
    "a file": ({"role": "user", "content": [input_image(file_id="f")]}, "file_id"),
    "without a URL": ({"role": "user", "content": [{"type": "input_image"}]}, "must have a URL"),
    "an object": ({"role": "user", "content": [{"type": "input_image", "image_url": {"url": URL}}]}, "must have a URL"),
}
BLOCKS: dict[str, tuple[dict[str, Any], str]] = {
    "of the policy": ({"role": "assistant", "content": [block()]}, r"content\[0\] is a picture that is not"),
    "of the instructions": ({"role": "system", "content": [block()]}, r"content\[0\] is a picture that is not"),
    "a file": ({"role": "user", "content": [block(type="file", file_id="f")]}, "source must be of type"),
    "no source": ({"role": "user", "content": [{"type": "image"}]}, "source must be of type"),
    "no data": ({"role": "user", "content": [block(type="base64", media_type="image/png")]}, "media_type and data"),
    "another field": ({"role": "user", "content": [block(type="url", url=URL, detail="low")]}, "detail"),
    "a document": ({"role": "user", "content": [{"type": "document"}]}, "'document', which is not served"),
}


@pytest.mark.parametrize("case", CHATS)
def test_chats_refuse_them_by_name(case):
    message, sentence = CHATS[case]
    with pytest.raises(InvalidRequest, match=sentence) as refused:
        plain_messages([message])
    assert (refused.value.param or "").startswith("messages[0].content[0]")


@pytest.mark.parametrize("case", ITEMS)
def test_responses_refuse_them_by_name(case):
    item, sentence = ITEMS[case]
    with pytest.raises(InvalidRequest, match=sentence) as refused:
        items.chat_messages(None, [], [item])
    assert (refused.value.param or "").startswith("input[0].content[0]")


@pytest.mark.parametrize("case", BLOCKS)
def test_messages_refuse_them_by_name(case):
    message, sentence = BLOCKS[case]
    with pytest.raises(InvalidRequest, match=sentence) as refused:
        blocks.chat_messages(None, [message, {"role": "user", "content": "x"}])
    assert (refused.value.param or "").startswith("messages[0].content[0]")
