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
from sampler.pictures.expanding import Expander, pictures_of
from wire.errors import InvalidRequest
from wire.picture_rule import PictureRule
from wire.pictures import Picture
from wire.sampling import MediaItem, RenderRequest, TokenIds

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
    possible by the text's length. `end_ids`: of tokens that end an answer, beside the tokenizer's own. `pictures`: how
    the base turns them into tokens; None for one that takes text alone."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        limits: PromptLimits | None = None,
        end_ids: Sequence[int] = (),
        pictures: PictureRule | None = None,
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
        self._expander = self._expander_by(pictures) if pictures else None
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

    def render(self, request: RenderRequest) -> TokenIds:
        """The ids of a chat, and the pictures in them. Raises InvalidRequest for what cannot be rendered, with the
        template's own reason, and ContextLengthExceeded."""
        rendered = self._render(request)
        self._within_limits(rendered.token_ids)
        return rendered

    def _render(self, request: RenderRequest) -> TokenIds:
        self._check_template_kwargs(request.chat_template_kwargs)
        messages = [_normalized(message, self.calls) for message in request.messages]
        if not messages:
            raise InvalidRequest("messages is empty; a chat needs at least one")
        if self._expander is None and (request.continued_media or pictures_of(request.messages)):
            raise InvalidRequest("this base takes no pictures; send text parts only")
        if request.continued_ids is not None:
            following = _after(messages, request.continued_messages)
            answer = messages[request.continued_messages - 1]
            return self._continue(request.continued_ids, answer, self._shown(following), request)
        shown = self._shown(messages)
        return self._tokens(self._apply_template(shown, request), pictures_of(request.messages), shown, request)

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

    def _expander_by(self, rule: PictureRule) -> Expander:
        placeholder: Any = self._tokenizer.convert_ids_to_tokens(rule.placeholder_id)
        return Expander(rule, placeholder, self.tokenize_bare, self._check_ids)

    def _tokens(
        self, text: str, pictures: Sequence[Picture], shown: Sequence[Message], request: RenderRequest
    ) -> TokenIds:
        """What the template wrote of the messages `shown`, as ids."""
        self._check_text(text)
        if self._expander is None:
            return _token_ids(self.tokenize_bare(text))
        self._expander.refuse_spelled(shown, request.tools, request.chat_template_kwargs)
        return _token_ids(*self._expander.expand(text, pictures))

    def _shown(self, messages: list[Message]) -> list[Message]:
        return messages if self._shows_results else as_user_messages(messages)

    def _continue(
        self, continued_ids: Sequence[int], answer: Message, following: list[Message], request: RenderRequest
    ) -> TokenIds:
        """The ids, the end of their turn unless they have one, and the rendering of the messages that follow."""
        pictures = pictures_of(request.messages[request.continued_messages :])
        tail = self._tokens(self._tail(answer, following, request), pictures, following, request)
        is_ended = continued_ids and tail.token_ids and self._is_ended(continued_ids[-1], tail.token_ids[0])
        kept = tail.token_ids[1:] if is_ended else tail.token_ids
        moved = len(continued_ids) + len(kept) - len(tail.token_ids)
        media = self._expander.continued_media(request) if self._expander is not None else []
        media += [item.model_copy(update={"start": item.start + moved}) for item in tail.media]
        return _token_ids([*continued_ids, *kept], media)

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

    def _check_ids(self, num_tokens: int) -> None:
        if self._limits is not None:
            self._limits.check_ids(num_tokens)

    def _within_limits(self, ids: list[int]) -> list[int]:
        self._check_ids(len(ids))
        return ids

    def _check_template_kwargs(self, kwargs: Mapping[str, Any]) -> None:
        refused = sorted(self._reserved & kwargs.keys())
        if refused:
            raise InvalidRequest(f"chat_template_kwargs cannot set {', '.join(refused)}")


def _token_ids(ids: list[int], media: Sequence[MediaItem] = ()) -> TokenIds:
    return TokenIds.model_construct(
        token_ids=ids, media=list(media)
    )  # ours, and an id costs more to validate than to make


def _after(messages: list[Message], num_continued: int) -> list[Message]:
    if not 0 < num_continued <= len(messages):
        raise InvalidRequest(f"continued_messages is {num_continued}, but there are {len(messages)} messages")
    last_role = messages[num_continued - 1]["role"]
    if last_role != "assistant":
        raise InvalidRequest(f"continued_messages should end with the sampled answer, not with a {last_role} message")
    return messages[num_continued:]


def _normalized(message: Mapping[str, Any], style: CallStyle) -> Message:
    """As the template expects it: content a string, or parts where it has pictures; calls of tools in its style, or as
    text where it would leave them out."""
    role = message.get("role")
    if role not in _ROLES:
        raise InvalidRequest(f"unknown message role {role!r}; known: {', '.join(_ROLES)}")
    content = _content(message.get("content"))
    if isinstance(content, list) and (role == "assistant" or message.get("tool_calls")):
        raise InvalidRequest("an assistant's message has no pictures: policies write text")
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


def _content(content: Any) -> str | list[Message]:
    """One text, or, where there are pictures, texts and pictures as templates know them."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise InvalidRequest(f"message content should be a string or a list of parts, not {type(content).__name__}")
    parts = list[Message]()
    for text in map(_part_text, content):
        if text is None:
            parts.append({"type": "image"})
        elif parts and parts[-1]["type"] == "text":
            parts[-1]["text"] += text
        else:
            parts.append({"type": "text", "text": text})
    has_pictures = any(part["type"] == "image" for part in parts)
    return parts if has_pictures else "".join(part["text"] for part in parts)


def _part_text(part: Any) -> str | None:
    """None for a picture."""
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    if kind == "picture":
        return None
    raise InvalidRequest(f"message content parts of type {kind!r} are not supported; send text and pictures only")


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
