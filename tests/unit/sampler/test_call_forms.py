"""The form of calls is read off a chat template: histories show it, grammars force it, and answers are read in it."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sampler.backends.base import SamplerInfo
from sampler.backends.local.constraints import Constraints
from sampler.chat.reading import SymbolReader, joined
from sampler.chat.rendering import ChatRenderer
from sampler.vocabulary import Vocabulary
from tests.unit.sampler.conftest import TEMPLATE
from wire.errors import InvalidRequest
from wire.sampling import Constraint, ParsedMessage, ParseOptions, RenderRequest

# The essential form of what the families' templates write; `[TOOL_CALLS]` and `<|end|>` are control tokens here.
USER = (
    "{%- for m in messages %}{%- if m.role != 'assistant' %}{{ '<|start|>' + m.role + '\n' + m.content + '<|end|>' }}"
)
OPENED = "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{ '<|start|>assistant\n' }}{%- endif %}"
LLAMA = (
    USER + "{%- elif m.tool_calls %}{%- if m.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}"
    "{%- endif %}{%- set f = m.tool_calls[0].function %}{{ '<|start|>assistant\n{\"name\": \"' + f.name + '\", ' }}"
    "{{ '\"parameters\": ' }}{{ f.arguments | tojson }}{{ '}<|end|>' }}"
    "{%- else %}{{ '<|start|>assistant\n' + m.content + '<|end|>' }}" + OPENED
)
MISTRAL = (
    USER + "{%- elif m.tool_calls %}{{ '<|start|>assistant\n[TOOL_CALLS][' }}{%- for c in m.tool_calls %}"
    "{%- if c.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{%- endif %}"
    "{{ (c.function | tojson)[:-1] + ', \"id\": \"' + c.id + '\"}' + (']' if loop.last else ', ') }}{%- endfor %}"
    "{{ '<|end|>' }}{%- else %}{{ '<|start|>assistant\n' + m.content + '<|end|>' }}" + OPENED
)
DEEPSEEK = (
    USER + "{%- elif m['content'] is none %}{{ '<|start|>assistant\n<calls>' }}{%- for c in m.tool_calls %}"
    "{{ '<call>' + c.type + '<sep>' + c.function.name + '\n```json\n' + c.function.arguments + '\n```</call>' }}"
    "{{ '</calls><|end|>' if loop.last else '\n' }}{%- endfor %}"
    "{%- else %}{{ '<|start|>assistant\n' + m.content + '<|end|>' }}" + OPENED
)
GEMMA = USER + "{%- else %}{{ '<|start|>assistant\n' + m.content + '<|end|>' }}" + OPENED
GLM = (
    USER + "{%- else %}{{ '<|start|>assistant\n' + m.content }}{%- for c in m.tool_calls or [] %}"
    "{{ '<tool_call>' + c.function.name }}{%- for key, value in c.function.arguments.items() %}"
    "{{ '<arg_key>' + key + '</arg_key><arg_value>' + value + '</arg_value>' }}{%- endfor %}{{ '</tool_call>' }}"
    "{%- endfor %}{{ '<|end|>' }}" + OPENED
)
HARMONY = (
    "{%- for m in messages %}{%- if m.role != 'assistant' %}{{ '<|start|>' + m.role + '<|message|>' + m.content }}"
    "{{ '<|end|>' }}{%- elif m.tool_calls %}{%- set f = m.tool_calls[0].function %}"
    "{{ '<|start|>assistant to=functions.' + f.name + '<|channel|>commentary json<|message|>' }}"
    "{{ f.arguments | tojson }}{{ '<|call|>' }}"
    "{%- else %}{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|return|>' }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '<|start|>assistant' }}{%- endif %}"
)
QWEN = TEMPLATE.replace("<|im_start|>", "<|start|>").replace("<|im_end|>", "<|end|>")

HERMES_TEXT = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
TEXTS = {
    "qwen": (QWEN, HERMES_TEXT),
    "llama": (LLAMA, '{"name": "add", "parameters": {"a": 1}}'),
    "mistral": (MISTRAL, '[TOOL_CALLS][{"name": "add", "arguments": {"a": 1}}]'),
    "deepseek": (DEEPSEEK, '<calls><call>function<sep>add\n```json\n{"a": 1}\n```</call></calls>'),
    "gemma": (GEMMA, HERMES_TEXT),
}
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("add", "multiply")]
CALL = {"id": "c12345678", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


CONTROL = ("<|start|>", "<|end|>", "[TOOL_CALLS]")
HARMONY_CONTROL = ("<|start|>", "<|end|>", "<|return|>", "<|call|>", "<|channel|>", "<|message|>", "<|constrain|>")


def tokenizer_of(template: str) -> PreTrainedTokenizerFast:
    is_harmony = template == HARMONY
    vocab = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    bpe = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(token, special=True) for token in (HARMONY_CONTROL if is_harmony else CONTROL)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|call|>" if is_harmony else "<|end|>")
    tokenizer.chat_template = template
    return tokenizer


class Base:
    """What the local backend makes of a tokenizer."""

    def __init__(self, template: str) -> None:
        self.tokenizer = tokenizer_of(template)
        self.vocabulary = Vocabulary(self.tokenizer)
        self.renderer = ChatRenderer(self.tokenizer)
        self.form = self.renderer.calls.form
        info = SamplerInfo(len(self.tokenizer), 4096, (self.tokenizer.eos_token_id,))
        self.constraints = Constraints(self.tokenizer, self.vocabulary, info, self.form)

    def history(self, content: str | None = None, arguments: Any = '{"a": 1}') -> str:
        call = {**CALL, "function": {**CALL["function"], "arguments": arguments}}
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": content, "tool_calls": [call]}]
        return self.tokenizer.decode(
            self.renderer.render(RenderRequest(messages=messages, add_generation_prompt=False)).token_ids
        )

    def forced(self, seed: int, *, single: bool) -> list[int]:
        form = self.constraints.start(Constraint(calls={"tools": TOOLS, "single": single}))
        draw, ids = random.Random(seed), list[int]()
        while len(ids) < 600:
            ids.append(draw.choice(form.allowed_V().nonzero()[:, 0].tolist()))
            if ids[-1] == self.tokenizer.eos_token_id:
                return ids
            form.take(ids[-1])
        raise AssertionError("it does not end")

    def read(self, ids: list[int], *, step: int) -> ParsedMessage:
        reader, deltas = SymbolReader(self.vocabulary, self.form, [], ParseOptions(tools=TOOLS)), []
        for start in range(0, len(ids), step):
            piece = ids[start : start + step]
            text = b"".join(self.vocabulary.bytes_of(token_id) for token_id in piece).decode()
            deltas += reader.read(piece, text, ended=start + step >= len(ids))
        return joined(deltas)


@pytest.fixture(scope="module")
def bases() -> dict[str, Base]:
    return {name: Base(template) for name, (template, _) in TEXTS.items()}


@pytest.mark.parametrize("name", TEXTS)
def test_a_history_shows_its_call_in_the_bases_form_beside_words_too(name, bases):
    written = TEXTS[name][1]
    shown = written.replace("}]", ', "id": "c12345678"}]') if name == "mistral" else written
    assert shown in bases[name].history()
    beside = bases[name].history("Let me see.")
    assert written in beside or shown in beside


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("arguments", ["", " ", None, "null"])
def test_a_call_without_arguments_is_shown_as_one_with_an_empty_object(name, arguments, bases):
    assert bases[name].history(arguments=arguments) == bases[name].history(arguments="{}")


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("single", [True, False], ids=["one call", "calls"])
def test_forced_calls_are_written_in_the_bases_form_and_read_whole_and_streamed(name, single, bases):
    base = bases[name]
    for seed in range(4):
        ids = base.forced(seed, single=single)
        whole = base.read(ids, step=len(ids))
        assert whole.content is None
        assert whole == base.read(ids, step=1) == base.read(ids, step=3)
        assert len(whole.tool_calls) == 1 if single or name == "llama" else whole.tool_calls
        for call in whole.tool_calls:
            assert call.name in ("add", "multiply")
            assert json.loads(call.arguments)["a"] in (1, 2)


def test_a_template_that_writes_calls_without_json_forces_none_and_reads_none():
    base = Base(GLM)
    assert base.form is None
    with pytest.raises(InvalidRequest, match="a call cannot be forced"):
        base.forced(0, single=True)
    text = "<tool_call>add<arg_key>a</arg_key><arg_value>1</arg_value></tool_call>"
    assert base.read(base.tokenizer.encode(text), step=2).content == text
    assert "<arg_key>a</arg_key>" in base.history(arguments='{"a": "1"}')


def test_control_tokens_of_a_broken_call_are_no_text():
    base = Base(MISTRAL)
    ids = base.tokenizer.encode("Well [TOOL_CALLS]no call")
    assert base.read(ids, step=1).content == "Well no call"


HARMONY_ANSWERS = {
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>42<|return|>": (
        "Hm.", "42", []
    ),
    "<|channel|>commentary to=functions.add <|constrain|>json<|message|>{\"a\": 1}<|call|>": (
        None, None, [("add", '{"a": 1}')]
    ),
    " to=functions.add<|channel|>commentary json<|message|>{\"a\": \"</x>\"}<|call|>": (
        None, None, [("add", '{"a": "</x>"}')]
    ),
    "<|channel|>commentary to=functions.add<|message|>no json<|call|>": (None, "no json", []),
    "<|channel|>analysis<|message|>cut o": ("cut o", None, []),
    "plain text": (None, "plain text", []),
    "plain<|end|>": (None, "plain", []),
    "x" * 300: (None, "x" * 300, []),
}  # fmt: skip


@pytest.mark.parametrize("text", HARMONY_ANSWERS)
def test_harmonys_channels_are_reasoning_calls_and_content(text):
    base, expected = Base(HARMONY), HARMONY_ANSWERS[text]
    for step in (1, 3, 1000):
        message = base.read(base.tokenizer.encode(text), step=step)
        calls = [(call.name, call.arguments) for call in message.tool_calls]
        assert (message.reasoning_content, message.content, calls) == expected


def test_harmonys_calls_are_forced_in_its_form():
    base = Base(HARMONY)
    for seed in range(3):
        ids = base.forced(seed, single=False)
        assert base.tokenizer.decode(ids).startswith(" to=functions.")
        [call] = base.read(ids, step=1).tool_calls
        assert json.loads(call.arguments)["a"] in (1, 2)
