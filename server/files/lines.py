"""One line of an uploaded file: what it may be, and what it says.

Three kinds of lines, one kind a file. `tasks` name a task of an environment. `messages` are conversations, with
whatever else graders read: OpenAI's own form, or one of the dialogue formats of `GET /v2/traces/export`.
`trajectories` are the lines of its format `headway`, with the tokens of each turn.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.rollouts.imported_lines import read_line
from server.values.closed_requests import Closed
from server.values.sanitizing import is_storable, refuse_deep
from server.values.validation_messages import first_problem
from wire.errors import InvalidRequest

FileKind: TypeAlias = Literal["tasks", "messages", "trajectories"]

MAX_LINE_BYTES = 1024**2
"""Of tasks and conversations. A trajectory may be as long as a chat."""
_TASKS, _MESSAGES, _TRAJECTORIES = "tasks", "messages", "trajectories"
_Name = Annotated[str, Field(min_length=1, max_length=500)]
T = TypeVar("T", bound=BaseModel)


class TaskLine(Closed):
    """A task of an environment."""

    env: _Name
    task: _Name
    args: dict[str, Any] = Field(default_factory=dict[str, Any])
    slug: _Name | None = None


class TextPart(Closed):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class CalledFunction(Closed):
    """Of a call: `arguments` is JSON as text."""

    name: _Name
    arguments: str


class MessageCall(Closed):
    """A tool call of the assistant's."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Closed):
    """One message of a conversation. `weight` 0: the assistant's message is not trained on."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[MessageCall] | None = None
    tool_call_id: str | None = None
    weight: Literal[0, 1] | None = None

    @property
    def text(self) -> str:
        """Its content in one piece."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class _Conversation(BaseModel):
    model_config = ConfigDict(extra="allow")

    messages: list[Message] = Field(min_length=1)
    tools: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation: what is given and, where the line has it, how it went on. `item`: the whole line, as graders see
    it."""

    prompt: list[Message]
    completion: list[Message]
    tools: list[dict[str, Any]]
    item: dict[str, Any]


def kind_of(data: bytes, max_tokens: int) -> FileKind:
    """What a line is, when it is right. `max_tokens`: of a trajectory. Raises InvalidRequest for what is wrong."""
    said = _object(data)
    if "turns" in said or "prompt_token_ids" in said:
        if any(read_line(data, max_tokens).media()):
            raise InvalidRequest(
                "names pictures, which files are not trained on with: import the rollouts and train by their trace ids"
            )
        return _TRAJECTORIES
    if len(data) > MAX_LINE_BYTES:
        raise InvalidRequest(f"has {len(data)} bytes, and at most {MAX_LINE_BYTES} are taken")
    if "env" in said or "task" in said:
        task_of(said)
        return _TASKS
    dialogue_of(said)
    return _MESSAGES


def read_task(data: bytes) -> TaskLine:
    """The task that a line names. Raises InvalidRequest."""
    return task_of(_object(data))


def read_dialogue(data: bytes) -> Dialogue:
    """The conversation of a line. Raises InvalidRequest."""
    return dialogue_of(_object(data))


def task_of(said: dict[str, Any]) -> TaskLine:
    """The task that an object names. Raises InvalidRequest."""
    task = _valid(TaskLine, said)
    if not all(is_storable(text) for text in (task.env, task.task, task.slug or "")):
        raise InvalidRequest("env, task or slug holds a character that cannot be stored")
    return task


def dialogue_of(said: dict[str, Any]) -> Dialogue:
    """The conversation in an object of one of the known shapes. Raises InvalidRequest for any other."""
    given, following = _parts(said)
    conversation = _valid(_Conversation, {"messages": [*given, *following], "tools": _tools(said)})
    messages = conversation.messages
    for number, message in enumerate(messages):
        _check(number, message)
    cut = len(given) if "messages" not in said else _end_of_prompt(messages)
    return Dialogue(messages[:cut], messages[cut:], conversation.tools or [], said)


def _parts(said: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Prompt and completion, as lists of messages, of OpenAI's, TRL's, OpenRLHF's or verl's columns."""
    if "messages" in said:
        return _list("messages", said["messages"]), []
    if "prompt" in said and "completion" in said:
        return _spoken("prompt", said["prompt"], "user"), _spoken("completion", said["completion"], "assistant")
    if "input" in said and "output" in said:
        return _spoken("input", said["input"], "user"), _spoken("output", said["output"], "assistant")
    extra = said.get("extra_info")
    if "prompt" in said and isinstance(extra, dict) and "completion" in extra:
        return _spoken("prompt", said["prompt"], "user"), _spoken("extra_info", extra["completion"], "assistant")
    raise InvalidRequest(
        "is none of the lines that are taken: {env, task, args, slug}, {messages, …}, or one of an export of rollouts"
    )


def _spoken(name: str, value: Any, role: str) -> list[Any]:
    """A column that holds messages, or the text of one."""
    return [{"role": role, "content": value}] if isinstance(value, str) else _list(name, value)


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise InvalidRequest(f"{name} must be a list of messages")
    return value


def _tools(said: dict[str, Any]) -> Any:
    """As a list, or as TRL has it: JSON as text."""
    tools = said.get("tools")
    if isinstance(tools, str):
        try:
            return json.loads(tools)
        except ValueError:
            raise InvalidRequest("tools is not valid JSON") from None
    return tools


def _end_of_prompt(messages: list[Message]) -> int:
    """Where the answers begin that follow the last message which is not the assistant's."""
    end = len(messages)
    while end and messages[end - 1].role == "assistant":
        end -= 1
    return end


def _check(number: int, message: Message) -> None:
    where, role = f"messages[{number}]", message.role
    if message.weight is not None and role != "assistant":
        raise InvalidRequest(f"{where}.weight is for messages of the assistant alone")
    if message.tool_calls and role != "assistant":
        raise InvalidRequest(f"{where}.tool_calls is for messages of the assistant alone")
    if message.content is None and not message.tool_calls:
        raise InvalidRequest(f"{where}.content is missing")
    if role == "tool" and not message.tool_call_id:
        raise InvalidRequest(f"{where}.tool_call_id is missing")


def _object(data: bytes) -> dict[str, Any]:
    try:
        said = json.loads(data, parse_constant=_refuse_constant)
    except RecursionError:
        raise InvalidRequest("is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"is not valid JSON: {error}") from None
    except UnicodeDecodeError:
        raise InvalidRequest("is not valid JSON: it is not UTF-8") from None
    except ValueError:
        raise InvalidRequest("holds a number of too many digits; send it as text") from None
    if not isinstance(said, dict):
        raise InvalidRequest("must be a JSON object")
    refuse_deep(said, "it")
    return said


def _refuse_constant(name: str) -> Any:
    raise InvalidRequest(f"is not valid JSON: {name} is no JSON")


def _valid(shape: type[T], said: dict[str, Any]) -> T:
    try:
        return shape.model_validate(said)
    except ValidationError as error:
        raise InvalidRequest(first_problem(error.errors(include_url=False), said)) from None
