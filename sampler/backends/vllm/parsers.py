"""Which of vLLM's parsers go with a base (those that were set, else what its chat template gives away), and which
parts of its answers they read.

The template instructs the model how to write a call; vLLM has a parser for each way. A base that may reason says so in
its template too: reasoning can be switched off, or its answers begin inside a reasoning block. What can be read here,
is, as by all backends; vLLM reads calls in other forms, and whatever it was set to read.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import structlog

from sampler.chat.call_forms import CallForm, CallStyle

log = structlog.get_logger(__name__)

NONE = "none"

# In this order: what an earlier line says holds more than what a later one says.
_TOOL_PARSERS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("<tool_call>", "<function="), "qwen3_coder"),
    (("<tool_call>", "<arg_key>"), "glm45"),
    (("<minimax:tool_call>",), "minimax_m2"),
    (("<｜tool▁calls▁begin｜>", "```json"), "deepseek_v3"),
    (("<｜tool▁calls▁begin｜>",), "deepseek_v31"),
    (("<|tool_calls_section_begin|>",), "kimi_k2"),
    (("<|channel|>", "<|message|>"), "openai"),
    (("[TOOL_CALLS]",), "mistral"),
    (("<|python_tag|>",), "llama3_json"),
    (("<tool_call>",), "hermes"),
)
_REASONING_OF_TOOLS = {"glm45": "glm45", "minimax_m2": "minimax_m2", "openai": "openai_gptoss"}
_THINK = ("<think>", "</think>")
_READ_HERE = ("hermes", "openai")
"""Also where the template shows no calls."""
_THINKING = (None, "qwen3", "deepseek_r1", "deepseek_v3", "glm45", "minimax_m2", "openai_gptoss")
"""Parsers of reasoning that is read here: in `<think>` tags, or Harmony's."""


@dataclass(frozen=True, slots=True)
class Parsers:
    """vLLM's names of them; None: that part of an answer stays as it is."""

    tool_call: str | None
    reasoning: str | None

    def arguments(self) -> list[str]:
        """For the command line of a server."""
        tools = ["--enable-auto-tool-choice", "--tool-call-parser", self.tool_call] if self.tool_call else []
        return [*tools, *(["--reasoning-parser", self.reasoning] if self.reasoning else [])]


@dataclass(frozen=True, slots=True)
class Division:
    """Who reads what. `form`: calls that are read here. `unread`: what begins calls that vLLM reads; without any marks
    in it, all content may be calls; None: it reads none. `reasons`: whether reasoning is read here. `all_by_vllm`: it
    is set to read reasoning in a form that is not known here."""

    form: CallForm | None
    unread: tuple[str, ...] | None = None
    reasons: bool = True
    all_by_vllm: bool = False


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """What a base's files say about its chats. `generation_prompt` is what its template puts before an answer."""

    template: str
    generation_prompt: str
    model_type: str
    vocabulary: Container[str]


def choose_parsers(tool_call: str | None, reasoning: str | None, chat: ChatFormat) -> Parsers:
    """The parsers that were named (`none`: none of that kind), else those that the base's template is written for.
    Where it offers tools in an unknown way, a line of the log says what to set."""
    chosen_tools = _named(tool_call) if tool_call else _tool_parser(chat.template)
    chosen_reasoning = _named(reasoning) if reasoning else _reasoning_parser(chat, chosen_tools)
    if not tool_call and chosen_tools is None and "tools" in chat.template:
        log.warning(
            "no_tool_parser", hint="this base's template is not known: name one of vLLM's with --tool-call-parser"
        )
    if not reasoning and chosen_reasoning is None and _reasons(chat):
        log.warning(
            "no_reasoning_parser", hint="this base may reason: name one of vLLM's parsers with --reasoning-parser"
        )
    return Parsers(chosen_tools, chosen_reasoning)


def divide(tool_call: str | None, reasoning: str | None, chat: ChatFormat, calls: CallStyle) -> Division:
    """Who reads what, with these parsers named. Naming the one that the template gives away changes nothing."""
    if reasoning not in (NONE, *_THINKING):
        return Division(None, all_by_vllm=True)
    reasons, default = reasoning != NONE, _tool_parser(chat.template)
    if tool_call == NONE:
        return Division(None, reasons=reasons)
    parser = tool_call or default
    is_shown = calls.shows_calls and calls.form is not None
    if parser == default and (is_shown or parser is None or parser in _READ_HERE):
        return Division(calls.form, reasons=reasons)
    marks = next((marks for marks, name in _TOOL_PARSERS if name == parser), ())
    return Division(None, marks, reasons)


def opens_reasoning(generation_prompt: str) -> bool:
    """Whether an answer begins inside a reasoning block."""
    lowered = generation_prompt.lower()
    return "think" in lowered.rpartition("/think")[2].replace("no_think", "") and not lowered.rstrip().endswith(
        ("</think>", "[/think]")
    )


def _named(parser: str) -> str | None:
    return None if parser == NONE else parser


def _tool_parser(template: str) -> str | None:
    return next((parser for marks, parser in _TOOL_PARSERS if all(mark in template for mark in marks)), None)


def _reasoning_parser(chat: ChatFormat, tool_parser: str | None) -> str | None:
    if tool_parser in _REASONING_OF_TOOLS:
        return _REASONING_OF_TOOLS[tool_parser]
    if not _reasons(chat) or not all(tag in chat.vocabulary for tag in _THINK):
        return None
    if chat.model_type.startswith("qwen3"):
        return "qwen3"
    if chat.model_type.startswith("deepseek") and not opens_reasoning(chat.generation_prompt):
        return "deepseek_v3"
    return "deepseek_r1" if opens_reasoning(chat.generation_prompt) else None


def _reasons(chat: ChatFormat) -> bool:
    return "enable_thinking" in chat.template or opens_reasoning(chat.generation_prompt)
