"""Chat messages to token ids, through the chat template of the base model's tokenizer.

A turn that continues an earlier one keeps that one's ids as they were sampled, and renders only what came after:
text that was sampled need not tokenize back to the ids that were.
"""

from __future__ import annotations

import inspect
import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from sampler.admission.prompt_limits import PromptLimits
from sampler.chat.call_forms import CallStyle, call_style
from sampler.chat.harmony import HARMONY_END
from sampler.chat.json_texts import read_json
from sampler.chat.tool_results import as_user_messages, shows_results
from wire.errors import InvalidRequest
from wire.sampling import RenderRequest

Message = dict[str, Any]

# transformers drops a content that is None; some templates write calls only where it is none.
_WITH_ABSENT_CONTENTS = (
    "{%- set ns = namespace(messages=[]) %}{%- for message in messages %}"
    "{%- set ns.messages = ns.messages + [message if 'content' in message else dict(message, content=none)] %}"
    "{%- endfor %}{%- set messages = ns.messages %}"
)
_ROLES = ("system", "user", "assistant", "tool")


class ChatRenderer:
    """Renders with one tokenizer. Not for concurrent use. With limits, ids that fill the context are refused, as far as
    possible by the text's length. `end_ids`: of tokens that end an answer, beside the tokenizer's own."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, limits: PromptLimits | None = None, end_ids: Sequence[int] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self._limits = limits
        own_end_id: Any = tokenizer.eos_token_id
        self._end_ids = frozenset(one for one in (*end_ids, own_end_id) if one is not None)
        harmony_end = {i for i, token in tokenizer.added_tokens_decoder.items() if token.content == HARMONY_END}
        self._turn_end_ids = self._end_ids | harmony_end
        self._special_ids = frozenset(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)
        # Everything that apply_chat_template itself takes is ours to say; other names belong to the template.
        parameters = inspect.signature(tokenizer.apply_chat_template).parameters
        self._reserved = {*parameters, "messages"} - {"kwargs"}
        end = tokenizer.eos_token
        self.calls = call_style(self._render_probe, [end] if isinstance(end, str) else [])
        """How the template writes calls."""
        self._shows_results = shows_results(self._render_probe)

    def tokenize(self, text: str) -> list[int]:
        """A plain text, with the special tokens that the tokenizer puts around one. Raises ContextLengthExceeded."""
        self._check_text(text)
        return self._within_limits(self._tokenizer.encode(text))

    def tokenize_bare(self, text: str) -> list[int]:
        """A text as it is, or a piece of one."""
        return self._tokenizer.encode(text, add_special_tokens=False)

    def render(self, request: RenderRequest) -> list[int]:
        """The ids of a chat. Raises InvalidRequest for what cannot be rendered, with the template's own reason, and
        ContextLengthExceeded."""
        return self._within_limits(self._render(request))

    def _render(self, request: RenderRequest) -> list[int]:
        self._check_template_kwargs(request.chat_template_kwargs)
        messages = [_normalized(message, self.calls) for message in request.messages]
        if not messages:
            raise InvalidRequest("messages is empty; a chat needs at least one")
        if request.continued_ids is not None:
            following = _after(messages, request.continued_messages)
            answer = messages[request.continued_messages - 1]
            return self._continue(request.continued_ids, answer, self._shown(following), request)
        rendered = self._apply_template(self._shown(messages), request)
        self._check_text(rendered)
        return self.tokenize_bare(rendered)

    def generation_prompt(self, chat_template_kwargs: dict[str, Any]) -> str:
        """What the template writes before an answer; empty where it cannot be found out."""
        chat = RenderRequest(messages=[{"role": "user", "content": "."}], chat_template_kwargs=chat_template_kwargs)
        try:
            whole = self._apply_template(chat.messages, chat)
            chat.add_generation_prompt = False
            without = self._apply_template(chat.messages, chat)
        except InvalidRequest:
            return ""
        return whole.removeprefix(without) if whole.startswith(without) else ""

    def _shown(self, messages: list[Message]) -> list[Message]:
        return messages if self._shows_results else as_user_messages(messages)

    def _continue(
        self, continued_ids: Sequence[int], answer: Message, following: list[Message], request: RenderRequest
    ) -> list[int]:
        """The ids, the end of their turn unless they have one, and the rendering of the messages that follow."""
        tail = self._tail(answer, following, request)
        self._check_text(tail)
        tail_ids = self.tokenize_bare(tail)
        if continued_ids and tail_ids and self._is_ended(continued_ids[-1], tail_ids[0]):
            tail_ids = tail_ids[1:]
        return [*continued_ids, *tail_ids]

    def _is_ended(self, last_id: int, end_id: int) -> bool:
        """Whether an answer whose last token this is needs no such token more. Bases have several that end one."""
        if last_id == end_id:
            return last_id in self._special_ids
        return last_id in self._end_ids and end_id in self._turn_end_ids

    def _tail(self, answer: Message, following: list[Message], request: RenderRequest) -> str:
        """What the template writes behind an answer: rendered behind a stand-in for the history, and begins where the
        stand-in's answer ends. That has calls of the same names only where the template insists on them."""
        marker = f"headway{secrets.token_hex(16)}"
        plain: Message = {"role": "assistant", "content": marker}
        try:
            return self._behind(marker, plain, following, request)
        except InvalidRequest:
            if not answer.get("tool_calls") or self.calls.form is None:
                raise
        closing = f"{self.calls.form.after}{self.calls.form.section_close}"
        tail = self._behind(marker, self._calling(answer, marker), following, request).removeprefix('"}')
        is_end = {*self.tokenize_bare(closing)} <= self._turn_end_ids
        return tail if is_end else tail.removeprefix(closing)

    def _calling(self, answer: Message, marker: str) -> Message:
        """This answer, its calls with the marker for their arguments."""
        arguments: Any = {"marker": marker}
        if self.calls.arguments_as_text:
            arguments = json.dumps(arguments)
        calls = [{**call, "function": {**call["function"], "arguments": arguments}} for call in answer["tool_calls"]]
        content = None if self.calls.content_absent else ""
        return {"role": "assistant", "content": content, "tool_calls": calls}

    def _behind(self, marker: str, stand_in: Message, following: list[Message], request: RenderRequest) -> str:
        history: list[Message] = [{"role": "user", "content": "."}, stand_in]
        _, found, tail = self._apply_template([*history, *following], request).rpartition(marker)
        if not found:
            raise InvalidRequest("this base's chat template does not show answers as they are: none can be continued")
        return tail

    def _render_probe(self, messages: list[Message], tools: list[dict[str, Any]], opened: bool) -> str:
        return self._apply_template(messages, RenderRequest(messages=[], tools=tools, add_generation_prompt=opened))

    def _apply_template(self, messages: list[Message], request: RenderRequest) -> str:
        template = self._tokenizer.chat_template
        if not template:
            raise InvalidRequest("this base has no chat template; send a prompt to the completions endpoint instead")
        has_absent = any(message.get("content") is None for message in messages)
        with_absent = _WITH_ABSENT_CONTENTS + template if has_absent and isinstance(template, str) else None
        try:
            rendered = self._tokenizer.apply_chat_template(
                messages,
                chat_template=with_absent,
                tools=request.tools or None,  # pyright: ignore[reportArgumentType]
                add_generation_prompt=request.add_generation_prompt,
                tokenize=False,
                **request.chat_template_kwargs,
            )
        except TemplateError as error:
            raise InvalidRequest(f"the chat template refuses these messages: {error.message}") from error
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise InvalidRequest(f"the chat template cannot render these messages: {error}") from error
        assert isinstance(rendered, str)
        return rendered

    def _check_text(self, text: str) -> None:
        if self._limits is not None:
            self._limits.check_text(len(text))

    def _within_limits(self, ids: list[int]) -> list[int]:
        if self._limits is not None:
            self._limits.check_ids(len(ids))
        return ids

    def _check_template_kwargs(self, kwargs: Mapping[str, Any]) -> None:
        refused = sorted(self._reserved & kwargs.keys())
        if refused:
            raise InvalidRequest(f"chat_template_kwargs cannot set {', '.join(refused)}")


def _after(messages: list[Message], num_continued: int) -> list[Message]:
    if not 0 < num_continued <= len(messages):
        raise InvalidRequest(f"continued_messages is {num_continued}, but there are {len(messages)} messages")
    last_role = messages[num_continued - 1]["role"]
    if last_role != "assistant":
        raise InvalidRequest(f"continued_messages should end with the sampled answer, not with a {last_role} message")
    return messages[num_continued:]


def _normalized(message: Mapping[str, Any], style: CallStyle) -> Message:
    """As the template expects it: content a string, calls of tools in its style, or as text where it would leave them
    out."""
    role = message.get("role")
    if role not in _ROLES:
        raise InvalidRequest(f"unknown message role {role!r}; known: {', '.join(_ROLES)}")
    content = _text(message.get("content"))
    if not message.get("tool_calls"):
        return {**message, "content": content}
    calls = [_with_object_arguments(call) for call in message["tool_calls"]]
    if style.form is not None and not (style.shows_calls and (style.beside_content or not content)):
        written = style.form.text_of([(call["function"].get("name"), _json(call)) for call in calls])
        kept = {key: value for key, value in message.items() if key != "tool_calls"}
        return {**kept, "content": f"{content}\n{written}" if content else written}
    if style.arguments_as_text:
        calls = [{**call, "function": {**call["function"], "arguments": _json(call)}} for call in calls]
    return {**message, "content": content or (None if style.content_absent else ""), "tool_calls": calls}


def _json(call: Mapping[str, Any]) -> str:
    arguments = call["function"]["arguments"]
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise InvalidRequest(f"message content should be a string or a list of parts, not {type(content).__name__}")
    return "".join(_part_text(part) for part in content)


def _part_text(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    if kind in ("image_url", "image", "input_image"):
        raise InvalidRequest("images are not supported yet; send text parts only")
    raise InvalidRequest(f"message content parts of type {kind!r} are not supported; send text parts only")


def _with_object_arguments(call: Any) -> Any:
    if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
        raise InvalidRequest('a tool call should look like {"type": "function", "function": {"name", "arguments"}}')
    function = call["function"]
    return {**call, "function": {**function, "arguments": _object_or_as_is(function.get("arguments"))}}


def _object_or_as_is(arguments: Any) -> Any:
    """Templates put an object through `tojson`; a string would come out quoted twice. One that no tokenizer would take
    as an object, since it escapes half a surrogate pair, stays the text that was written."""
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        return {}
    if not isinstance(arguments, str):
        return arguments
    try:
        parsed = read_json(arguments)
    except (ValueError, RecursionError):
        return arguments
    if parsed is None:
        return {}
    return parsed if isinstance(parsed, dict) else arguments
