"""Templates that insist on a call before its result, or have no place for results; and bases that end answers by
several tokens. (`tests/families` has the real ones.)"""

from __future__ import annotations

from typing import Any

import pytest

from sampler.chat.rendering import ChatRenderer
from sampler.vocabulary import Vocabulary
from tests.unit.sampler.test_call_forms import GEMMA, HARMONY, tokenizer_of
from wire.errors import InvalidRequest
from wire.sampling import RenderRequest

INSISTING = HARMONY.replace(
    "{%- for m in messages %}",
    "{%- set ns = namespace(name='') %}{%- for m in messages %}"
    "{%- if m.role == 'tool' %}{%- if not ns.name %}{{ raise_exception('no call before this') }}{%- endif %}"
    "{{ '<|start|>functions.' + ns.name + '<|message|>' + m.content + '<|end|>' }}{%- endif %}"
    "{%- if m.tool_calls %}{%- set ns.name = m.tool_calls[0].function.name %}{%- endif %}"
    "{%- if m.role == 'tool' %}{%- continue %}{%- endif %}",
    1,
)
ALTERNATING = GEMMA.replace(
    "{%- for m in messages %}",
    "{%- for m in messages %}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{%- endif %}",
    1,
)
USER = {"role": "user", "content": "?"}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "3"}


class Base:
    def __init__(self, template: str, *end_tokens: str) -> None:
        self.tokenizer = tokenizer_of(HARMONY if template is INSISTING else template)
        self.tokenizer.chat_template = template
        self.renderer = ChatRenderer(self.tokenizer, end_ids=[self.id_of(token) for token in end_tokens])

    def id_of(self, token: str) -> int:
        return self.tokenizer.convert_tokens_to_ids(token)

    def text(self, messages: list[dict[str, Any]], **changes: Any) -> str:
        return self.tokenizer.decode(self.renderer.render(RenderRequest(messages=messages, **changes)).token_ids)

    def continued(self, answer: str, *messages: dict[str, Any], history: dict[str, Any] = CALLING) -> str:
        """What stands behind a sampled answer in the prompt of the next turn."""
        ids = [*self.renderer.render(RenderRequest(messages=[USER])).token_ids, *self.tokenizer.encode(answer)]
        chat = [USER, history, *messages]
        whole = self.renderer.render(RenderRequest(messages=chat, continued_ids=ids, continued_messages=2)).token_ids
        assert whole[: len(ids)] == ids
        return self.tokenizer.decode(whole[len(ids) :])


def test_a_result_is_continued_behind_a_call_of_the_same_name_where_the_template_insists_on_one():
    base = Base(INSISTING, "<|return|>", "<|call|>")
    called = " to=functions.add<|channel|>commentary json<|message|>{}<|call|>"
    assert base.continued(called, RESULT) == "<|start|>functions.add<|message|>3<|end|><|start|>assistant"
    cut_off = called.removesuffix("<|call|>")
    assert base.continued(cut_off, RESULT) == "<|call|><|start|>functions.add<|message|>3<|end|><|start|>assistant"
    with pytest.raises(InvalidRequest, match="no call before this"):
        base.continued("42", RESULT, history={"role": "assistant", "content": "42"})


def test_a_turn_that_one_token_has_ended_is_not_ended_by_another():
    base = Base(INSISTING, "<|return|>", "<|call|>")
    answer = {"role": "assistant", "content": "42"}
    behind = "<|start|>user<|message|>?<|end|><|start|>assistant"
    for end in ("<|return|>", "<|call|>"):
        assert base.continued(f"<|channel|>final<|message|>42{end}", USER, history=answer) == behind
    assert base.continued("<|channel|>final<|message|>42", USER, history=answer) == f"<|return|>{behind}"


def test_results_are_said_by_the_user_where_the_template_has_no_place_for_them():
    base = Base(ALTERNATING)
    text = base.text([USER, CALLING, RESULT, {**RESULT, "content": "4"}, {"role": "user", "content": "well?"}])
    response = "<tool_response>\n3\n</tool_response>\n<tool_response>\n4\n</tool_response>\nwell?"
    assert text.endswith(f"</tool_call><|end|><|start|>user\n{response}<|end|><|start|>assistant\n")
    behind = base.continued("<tool_call>", RESULT)
    assert behind == "<|end|><|start|>user\n<tool_response>\n3\n</tool_response><|end|><|start|>assistant\n"
    with pytest.raises(InvalidRequest, match="roles must alternate"):
        base.text([USER, USER])


def test_blanks_of_added_tokens_are_blanks_under_a_sentencepiece_decoder():
    from tokenizers import AddedToken, Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE(vocab={"a": 0, "▁": 1}, merges=[], byte_fallback=True))
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    bpe.add_tokens([AddedToken("▁▁", normalized=False), AddedToken("<x▁y>", special=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe)
    vocabulary = Vocabulary(tokenizer)
    assert vocabulary.bytes_of(tokenizer.convert_tokens_to_ids("▁▁")) == b"  "
    assert vocabulary.text_of(tokenizer.convert_tokens_to_ids("<x▁y>")) == "<x▁y>"
