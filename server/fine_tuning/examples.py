"""Examples out of a file's lines, for a job that imitates: the assistant's messages, or the tokens of turns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from server.files.lines import FileKind, Message, read_dialogue
from server.runs.loop.examples import EXAMPLE, EXAMPLES
from server.runs.settings import MAX_TASKS, InlineTask
from wire.errors import HeadwayError, InvalidRequest

_SYSTEM = {"developer": "system"}
_OF_A_TURN = ("prompt_token_ids", "output_token_ids")


def read_examples(content: bytes, kind: FileKind, field: str) -> list[InlineTask]:
    """The examples of a file. `field`: where it was asked for. Raises InvalidRequest for a line that is none."""
    if kind == "tasks":
        raise InvalidRequest(f"{field} names tasks, which hold no answers to imitate; use the method 'reinforcement'")
    read = _turns if kind == "trajectories" else _spoken
    examples = list[InlineTask]()
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            examples.append(InlineTask(env=EXAMPLES, id=EXAMPLE, args=read(line), slug=f"line-{number}"))
        except HeadwayError as error:
            raise InvalidRequest(f"{field}, line {number}: {error.message}") from None
    if len(examples) > MAX_TASKS:
        raise InvalidRequest(f"{field} has {len(examples)} lines; a job takes {MAX_TASKS}")
    return examples


def _turns(line: bytes) -> dict[str, Any]:
    said = json.loads(line)
    turns = said.get("turns") or [said]
    return {"turns": [{name: turn[name] for name in _OF_A_TURN} for turn in turns]}


def _spoken(line: bytes) -> dict[str, Any]:
    dialogue = read_dialogue(line)
    messages = [*dialogue.prompt, *dialogue.completion]
    first = 0 if "messages" in dialogue.item else len(dialogue.prompt)
    trained = [index for index, message in enumerate(messages) if index >= first and _is_trained(index, message)]
    if not trained:
        raise InvalidRequest("holds no message of the assistant's after another, so there is nothing to imitate")
    return {"messages": _plain(messages), "tools": dialogue.tools, "trained": trained}


def _is_trained(index: int, message: Message) -> bool:
    return index > 0 and message.role == "assistant" and message.weight != 0


def _plain(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """As chat templates know them."""
    plain = list[dict[str, Any]]()
    for message in messages:
        said = message.model_dump(mode="json", exclude_none=True, exclude={"weight", "content", "role"})
        plain.append({"role": _SYSTEM.get(message.role, message.role), "content": message.text, **said})
    return plain
