"""Chats with pictures, as ids: the same as transformers' own processors make, and nothing else reads as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import PreTrainedTokenizerFast

from sampler.admission.prompt_limits import PromptLimits
from sampler.chat.answers import packed_tokens, read_tokens
from sampler.chat.rendering import ChatRenderer
from tests.vision.families import (
    FAMILIES,
    VisionFamily,
    drawn,
    make_vision_model,
    png_of,
    processor_of,
    small_tokenizer,
)
from wire.errors import ContextLengthExceeded, InvalidRequest
from wire.media_items import media_of
from wire.picture_rule import PictureRule, rule_of
from wire.picture_runs import sequence_of
from wire.sampling import MediaItem, RenderRequest, TokenIds

SHOTS = [drawn(1), drawn(2, 100, 30), drawn(3, 20, 90)]
NAMES = [sha256(png_of(shot)).hexdigest() for shot in SHOTS]
CALL = {"type": "function", "function": {"name": "look", "arguments": "{}"}}


def shown(*numbers: int) -> list[dict[str, Any]]:
    sizes = [(SHOTS[number].width, SHOTS[number].height) for number in numbers]
    return [
        {"type": "picture", "name": NAMES[number], "width": width, "height": height}
        for number, (width, height) in zip(numbers, sizes, strict=True)
    ]


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


@dataclass
class Base:
    """A renderer of a family's base, and the processor it has to agree with."""

    family: VisionFamily
    tokenizer: PreTrainedTokenizerFast
    rule: PictureRule

    @cached_property
    def renderer(self) -> ChatRenderer:
        return ChatRenderer(self.tokenizer, pictures=self.rule)

    def render(self, messages: Sequence[dict[str, Any]], **changes: Any) -> TokenIds:
        return self.renderer.render(RenderRequest(messages=list(messages), **changes))

    def processed(self, messages: Sequence[dict[str, Any]], pictures: Sequence[Image.Image]) -> list[int]:
        """By transformers alone. Templates know a picture as `{"type": "image"}`."""
        known = [{**message, "content": _known(message["content"])} for message in messages]
        written = self.tokenizer.apply_chat_template(known, tokenize=False, add_generation_prompt=True)
        images: Any = [list(pictures)] if self.family.name == "gemma3" else list(pictures)
        processor = processor_of(self.family, self.tokenizer)
        return processor(images=images, text=[written], add_special_tokens=False)["input_ids"][0]

    def names_in(self, tokens: TokenIds) -> list[str]:
        """Of its runs, each of which holds placeholders alone, and all of them."""
        ids = np.array(tokens.token_ids, np.int32)
        sequence = sequence_of(self.rule, "the prompt", ids, media_of(tokens.media))
        assert (sequence.is_media == (ids == self.rule.placeholder_id)).all()
        return [item.name for item in sequence.media]


def _known(content: Any) -> Any:
    if isinstance(content, str):
        return content
    return [part if part["type"] == "text" else {"type": "image"} for part in content]


def base_of(family: VisionFamily) -> Base:
    tokenizer = small_tokenizer(family)
    config = make_vision_model(family, tokenizer).config.to_dict()
    settings = family.make_image_processor().to_dict()
    rule = rule_of(config, settings)
    assert rule is not None
    return Base(family, tokenizer, rule)


BASES = {name: base_of(family) for name, family in FAMILIES.items()}


@pytest.fixture(params=BASES)
def base(request: pytest.FixtureRequest) -> Base:
    return BASES[request.param]


CHATS: dict[str, tuple[list[dict[str, Any]], list[int]]] = {
    "between text": ([{"role": "user", "content": [text("what is "), *shown(0), text(" then?")]}], [0]),
    "first and last": ([{"role": "user", "content": [*shown(1), text("or"), *shown(2)]}], [1, 2]),
    "side by side, one twice": ([{"role": "user", "content": [*shown(0, 1, 0), text("\n\n which")]}], [0, 1, 0]),
    "alone": ([{"role": "user", "content": shown(2)}], [2]),
    "over several turns": (
        [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [text("this:"), *shown(0)]},
            {"role": "assistant", "content": "7"},
            {"role": "user", "content": [*shown(2), text("and this?")]},
        ],
        [0, 2],
    ),
}


@pytest.mark.parametrize("chat", CHATS)
def test_ids_are_those_of_transformers_own_processor(base: Base, chat: str):
    messages, numbers = CHATS[chat]
    rendered = base.render(messages)
    assert rendered.token_ids == base.processed(messages, [SHOTS[number] for number in numbers])
    assert base.names_in(rendered) == [NAMES[number] for number in numbers]
    sizes = [(item.width, item.height) for item in rendered.media]
    assert sizes == [SHOTS[number].size for number in numbers]


def test_a_chat_without_pictures_is_rendered_as_ever(base: Base):
    messages = [{"role": "user", "content": [text("what "), text("is it?")]}]
    plain = [{"role": "user", "content": "what is it?"}]
    assert base.render(messages) == base.render(plain)
    assert base.render(plain).token_ids == ChatRenderer(base.tokenizer).render(RenderRequest(messages=plain)).token_ids


def test_a_continuation_of_canonical_ids_equals_the_rendering_from_scratch(base: Base):
    messages, _ = CHATS["over several turns"]
    covered = base.render(messages[:2])
    ids = [*covered.token_ids, *base.tokenizer.encode("7", add_special_tokens=False)]
    whole = base.render(messages)
    for media in (covered.media, []):  # from the record, and found in the ids
        continued = base.render(messages, continued_ids=ids, continued_messages=3, continued_media=media)
        assert continued == whole
        assert base.names_in(continued) == [NAMES[0], NAMES[2]]


def test_placeholders_that_a_policy_sampled_are_text(base: Base):
    messages, _ = CHATS["over several turns"]
    covered = base.render(messages[:2])
    ids = [*covered.token_ids, base.rule.placeholder_id, base.rule.placeholder_id]
    continued = base.render(messages, continued_ids=ids, continued_messages=3, continued_media=covered.media)
    assert continued.token_ids[: len(ids)] == ids
    assert [item.name for item in continued.media] == [NAMES[0], NAMES[2]]
    with pytest.raises(InvalidRequest, match="more pictures than the 1 of the messages"):
        base.render(messages, continued_ids=ids, continued_messages=3)


def test_a_continuation_whose_client_left_out_the_pictures_is_refused(base: Base):
    """It would go on as a text of placeholders. A placeholder that a policy sampled in a text goes on."""
    messages, _ = CHATS["over several turns"]
    blind = [{**message, "content": "this:"} if number == 1 else message for number, message in enumerate(messages)]
    ids = [*base.render(messages[:2]).token_ids, 7]
    for said in (blind, [*blind[:3], {"role": "user", "content": "and?"}]):
        with pytest.raises(InvalidRequest, match="more pictures than the 0 of the messages they cover; send the pic"):
            base.render(said, continued_ids=ids, continued_messages=3)
    sampled = [*base.render(blind[:2]).token_ids, base.rule.placeholder_id]
    assert base.render(blind, continued_ids=sampled, continued_messages=3).token_ids[: len(sampled)] == sampled


def test_ids_that_do_not_show_what_their_messages_do_are_refused(base: Base):
    messages, _ = CHATS["over several turns"]
    covered = base.render(messages[:2])
    first = covered.media[0]
    cut = [*covered.token_ids[: first.start + 1], *covered.token_ids[first.start + first.num_tokens :]]
    for ids in (cut, [1, 2, 3]):
        with pytest.raises(InvalidRequest, match=r"messages\[1\] has a picture"):
            base.render(messages, continued_ids=ids, continued_messages=3)
    with pytest.raises(InvalidRequest, match="continued_ids"):
        base.render(messages, continued_ids=cut, continued_messages=3, continued_media=covered.media)


def _spelling(name: str) -> dict[str, list[dict[str, Any]]]:
    call = {**CALL, "function": {"name": "look", "arguments": {"at": name}}}
    escaped = {**CALL, "function": {"name": "look", "arguments": '{"at": "\\u003c' + name[1:] + '"}'}}
    user = {"role": "user", "content": "?"}
    return {
        "text": [{"role": "user", "content": f"see {name}"}],
        "a part beside a picture": [{"role": "user", "content": [text(name), *shown(0)]}],
        "two parts": [{"role": "user", "content": [text(name[:4]), text(name[4:]), *shown(0)]}],
        "an answer": [user, {"role": "assistant", "content": name}, user],
        "a call": [user, {"role": "assistant", "content": "", "tool_calls": [call]}, user],
        "an escape": [user, {"role": "assistant", "content": "", "tool_calls": [escaped]}, user],
    }


@pytest.mark.parametrize("where", _spelling("<x>"))
def test_text_that_spells_a_picture_is_refused(base: Base, where: str):
    for name in {base.rule.template_text, base.family.placeholder}:
        with pytest.raises(InvalidRequest, match="stands for a picture"):
            base.render(_spelling(name)[where])


def test_tools_that_spell_a_picture_are_refused(base: Base):
    tool = {"type": "function", "function": {"name": "look", "description": base.rule.template_text}}
    with pytest.raises(InvalidRequest, match="stands for a picture"):
        base.render(CHATS["alone"][0], tools=[tool])


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"role": "user", "content": [{**shown(0)[0], "name": "screen"}]}, "should look like"),
        ({"role": "user", "content": [{**shown(0)[0], "width": 0}]}, "should look like"),
        ({"role": "user", "content": [{**shown(0)[0], "height": "5"}]}, "should look like"),
        ({"role": "user", "content": [{**shown(0)[0], "width": 10**400, "height": 10**400}]}, "should look like"),
        ({"role": "assistant", "content": shown(0)}, "policies write text"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}, "image_url"),
    ],
)
def test_what_is_no_picture_is_refused(base: Base, message: dict[str, Any], reason: str):
    with pytest.raises(InvalidRequest, match=reason):
        base.render([message])


def test_a_template_that_leaves_pictures_out_is_named(base: Base):
    tokenizer = small_tokenizer(base.family)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content if m.content is string }}\n{% endfor %}"
    )
    with pytest.raises(InvalidRequest, match="shows 0 of the 1 pictures"):
        Base(base.family, tokenizer, base.rule).render([{"role": "user", "content": [text("a"), *shown(0)]}])


def test_a_chat_is_refused_by_its_pictures_before_they_are_expanded(base: Base):
    limits = PromptLimits(context_length=40, longest_token=64)
    renderer = ChatRenderer(base.tokenizer, limits, pictures=base.rule)
    with pytest.raises(ContextLengthExceeded):
        renderer.render(RenderRequest(messages=[{"role": "user", "content": shown(*[0] * 30)}]))


def test_a_picture_behind_a_tools_result_is_the_users_in_the_same_message_where_roles_must_alternate():
    """As HUD's agent says it: the result as text, then a message of the user with the screenshot."""
    base = BASES["gemma3"]
    history = [{"role": "user", "content": "look!"}, {"role": "assistant", "content": "", "tool_calls": [CALL]}]
    result = {"role": "tool", "tool_call_id": "1", "content": "done"}
    user = {"role": "user", "content": [text("it returned:"), *shown(0)]}
    rendered = base.render([*history, result, user])
    written = base.tokenizer.decode(rendered.token_ids)
    assert "<tool_response>\ndone\n</tool_response>\nit returned:" in written
    assert base.names_in(rendered) == [NAMES[0]]
    covered = base.render(history[:1])
    ids = [*covered.token_ids, *base.tokenizer.encode("ok<end_of_turn>", add_special_tokens=False)]
    continued = base.render([*history, result, user], continued_ids=ids, continued_messages=2)
    assert base.names_in(continued) == [NAMES[0]]
    assert base.tokenizer.decode(continued.token_ids[len(ids) :]) in written


def test_a_picture_in_a_tools_result_is_shown(base: Base):
    history = [{"role": "user", "content": "look!"}, {"role": "assistant", "content": "", "tool_calls": [CALL]}]
    result = {"role": "tool", "tool_call_id": "1", "content": [text("see"), *shown(1, 2)]}
    assert base.names_in(base.render([*history, result])) == [NAMES[1], NAMES[2]]


def test_tokens_cross_the_pipe_of_the_worker():
    item = MediaItem(start=1, num_tokens=2, name=NAMES[0], width=3, height=4)
    tokens = TokenIds(token_ids=[1, 7, 7, 2**31], media=[item])
    assert read_tokens(packed_tokens(tokens)) == tokens
    assert read_tokens(packed_tokens(TokenIds(token_ids=[]))) == TokenIds(token_ids=[])


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_ids_are_those_of_the_processor_with_the_families_own_tokenizers(name: str):
    from tests.families.bases import TOKENIZERS
    from tests.vision.families import real_tokenizer

    if not Path(TOKENIZERS / FAMILIES[name].tokenizer).is_dir():
        pytest.skip("python -m tests.families.download brings them")
    family = FAMILIES[name]
    tokenizer = real_tokenizer(family)
    rule = BASES[name].rule
    placeholder_id: Any = tokenizer.convert_tokens_to_ids(family.placeholder)
    base = Base(family, tokenizer, PictureRule.from_json({**rule.to_json(), "placeholder_id": placeholder_id}))
    for messages, numbers in CHATS.values():
        rendered = base.render(messages)
        assert rendered.token_ids == base.processed(messages, [SHOTS[number] for number in numbers])
        assert base.names_in(rendered) == [NAMES[number] for number in numbers]
