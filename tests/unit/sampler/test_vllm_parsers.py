"""Which of vLLM's parsers a base gets when nobody names one."""

from __future__ import annotations

import pytest

from sampler.backends.vllm.command import server_command
from sampler.backends.vllm.parsers import ChatFormat, Parsers, choose_parsers, opens_reasoning
from sampler.backends.vllm.settings import VllmSettings
from sampler.chat.rendering import ChatRenderer
from tests.unit.sampler.conftest import build_tokenizer

HERMES = '{% if tools %}<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}{% endif %}'
THINK = {"<think>", "</think>"}
ASSISTANT = "<|im_start|>assistant\n"

FAMILIES = {
    "Qwen 2.5": (HERMES, ASSISTANT, "qwen2", ("hermes", None)),
    "Qwen 3": (HERMES + "{{ enable_thinking }}", ASSISTANT, "qwen3", ("hermes", "qwen3")),
    "Qwen 3 that always thinks": (HERMES, f"{ASSISTANT}<think>\n", "qwen3", ("hermes", "qwen3")),
    "Qwen 3 that never thinks": (HERMES, ASSISTANT, "qwen3", ("hermes", None)),
    "Qwen 3 Coder": ("tools <tool_call>\n<function=f>", ASSISTANT, "qwen3_moe", ("qwen3_coder", None)),
    "GLM": ("tools <tool_call>f\n<arg_key>{{ enable_thinking }}", "<|assistant|>", "glm4_moe", ("glm45", "glm45")),
    "Llama 3": ("tools <|python_tag|>", "<|start_header_id|>assistant", "llama", ("llama3_json", None)),
    "Mistral": ("tools [TOOL_CALLS]", "[/INST]", "mistral", ("mistral", None)),
    "gpt-oss": ("tools <|channel|>x<|message|>", "<|start|>assistant", "gpt_oss", ("openai", "openai_gptoss")),
    "a distilled R1": ("{{ messages }}", "<｜Assistant｜><think>\n", "llama", (None, "deepseek_r1")),
    "a base without tools": ("{{ messages }}", "", "gpt2", (None, None)),
    "a base of its own kind": ("tools <<call>>", "", "novel", (None, None)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_template_gives_the_parsers_away(family):
    template, generation_prompt, model_type, expected = FAMILIES[family]
    parsers = choose_parsers(None, None, ChatFormat(template, generation_prompt, model_type, THINK))
    assert (parsers.tool_call, parsers.reasoning) == expected


def test_a_parser_that_the_tokenizer_has_no_tokens_for_is_not_chosen():
    chat = ChatFormat(HERMES + "{{ enable_thinking }}", ASSISTANT, "qwen3", {"<think>"})
    assert choose_parsers(None, None, chat).reasoning is None


def test_what_was_named_holds_and_none_means_none():
    chat = ChatFormat(HERMES + "{{ enable_thinking }}", ASSISTANT, "qwen3", THINK)
    assert choose_parsers("xlam", "none", chat) == Parsers("xlam", None)
    assert choose_parsers("none", None, chat) == Parsers(None, "qwen3")


@pytest.mark.parametrize(
    ("prompt", "opens"),
    [
        (ASSISTANT, False),
        (f"{ASSISTANT}<think>\n", True),
        (f"{ASSISTANT}<think>\n\n</think>\n\n", False),
        ("[THINK]", True),
        ("", False),
    ],
)
def test_an_answer_begins_in_reasoning_where_the_prompt_opened_it(prompt, opens):
    assert opens_reasoning(prompt) is opens


def test_the_generation_prompt_is_read_off_the_template():
    renderer = ChatRenderer(build_tokenizer())
    assert renderer.generation_prompt({}) == ASSISTANT
    assert renderer.generation_prompt({"enable_thinking": False}) == f"{ASSISTANT}<think>\n\n</think>\n\n"


def test_the_server_is_started_with_them(tmp_path):
    settings = VllmSettings(python="python")
    command = server_command(tmp_path, 1, settings, Parsers("hermes", "qwen3"))
    assert command[command.index("--tool-call-parser") + 1] == "hermes"
    assert command[command.index("--reasoning-parser") + 1] == "qwen3"
    assert "--enable-auto-tool-choice" in command
    assert "--tool-call-parser" not in server_command(tmp_path, 1, settings, Parsers(None, None))
