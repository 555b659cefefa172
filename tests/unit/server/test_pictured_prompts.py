"""Prompts with pictures, from what is asked to what is recorded: equal ids behind other pictures are other prompts."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import numpy as np

from server.protocols.openai.replies import shown_prompt
from server.sampling.answers import Answer
from server.sampling.continuing import continued
from server.sampling.requests import Chat, PicturedPrompt, affinity
from store.rollouts import Conversation, RecordedSample
from wire.extension import Media
from wire.media_items import media_items
from wire.sampling import GenerateEvent, MediaItem, ParseOptions, RenderRequest
from wire.trajectories import Turn

ONE, OTHER = "1" * 64, "2" * 64


def picture(name: str) -> dict[str, Any]:
    return {"type": "picture", "name": name, "width": 8, "height": 8}


def said(name: str, text: str = "?") -> dict[str, Any]:
    return {"role": "user", "content": [picture(name), {"type": "text", "text": text}]}


def chat(*messages: dict[str, Any]) -> Chat:
    return Chat(RenderRequest(messages=list(messages)), ParseOptions(), list(messages))


def item(start: int, name: str) -> MediaItem:
    return MediaItem(start=start, num_tokens=2, name=name, width=8, height=8)


def test_chats_about_one_picture_go_to_one_sampler_and_those_about_another_need_not():
    system = {"role": "system", "content": "Look."}
    asked = affinity(chat(system, said(ONE)))
    assert affinity(chat(system, said(ONE), {"role": "assistant", "content": "4"}, said(OTHER))) == asked
    assert affinity(chat(system, said(OTHER))) != asked
    assert affinity(chat(said(ONE, "\ud800"))), "half a surrogate pair is refused later, by name"


def test_ids_with_pictures_go_by_the_pictures_among_the_first_of_them():
    ids = list(range(300))
    asked = affinity(PicturedPrompt(ids, [item(3, ONE)]))
    assert affinity(PicturedPrompt([*ids, 7], [item(3, ONE), item(290, OTHER)])) == asked
    assert affinity(PicturedPrompt(ids, [item(3, OTHER)])) != asked != affinity(ids)


def test_an_answer_has_the_pictures_of_its_first_event():
    answer = Answer([])
    answer.add(GenerateEvent(prompt_token_ids=[5, 9, 9], prompt_media=[item(1, ONE)]))
    answer.add(GenerateEvent(text="4"))
    assert (answer.prompt_ids, answer.prompt_media) == ([5, 9, 9], [item(1, ONE)])


def recorded(*messages: dict[str, Any], media: tuple[Media, ...]) -> RecordedSample:
    turn = Turn(np.array([9, 9, 5], np.int32), np.array([6], np.int32), np.zeros(1, np.float32), media)
    now, reply = datetime.now(UTC), {"role": "assistant", "content": "4"}
    conversation = Conversation({}, list(messages), reply)
    return RecordedSample(b"", now, turn, None, now, "c", uuid.uuid4(), None, {}, "stop", 0.1, conversation)


def test_a_recorded_turn_is_continued_with_its_pictures_and_only_behind_the_same():
    media = (Media(0, 2, bytes.fromhex(ONE), 8, 8),)
    turn, answer, more = recorded(said(ONE), media=media), {"role": "assistant", "content": "4"}, said(OTHER, "and?")
    render = continued(chat(said(ONE), answer, more), [turn]).render
    assert (render.continued_ids, render.continued_messages) == ([9, 9, 5, 6], 2)
    assert render.continued_media == media_items(media)
    other = chat(said(OTHER), answer, more)
    assert continued(other, [turn]) is other


def test_a_reply_has_the_prompt_as_ids_and_where_it_has_pictures_as_chunks_too():
    plain = Answer([5, 6])
    assert shown_prompt(plain) == {"prompt_token_ids": [5, 6]}
    shown = shown_prompt(Answer([5, 9, 9, 6, 9, 9], prompt_media=[item(1, ONE), item(4, OTHER)]))
    assert shown["prompt_token_ids"] == [5, 9, 9, 6, 9, 9]
    assert shown["prompt_chunks"] == [
        {"type": "encoded_text", "tokens": [5]},
        {"type": "image_asset_pointer", "location": f"sha256:{ONE}", "format": "png", "expected_tokens": 2},
        {"type": "encoded_text", "tokens": [6]},
        {"type": "image_asset_pointer", "location": f"sha256:{OTHER}", "format": "png", "expected_tokens": 2},
    ]
