"""Tasks out of a file's lines, for a job that reinforces.

A line that names a task of an environment is that task: the environment grades it. Any other is a task of the
environment that comes with runners, which asks what the line asks and grades by the job's grader.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from server.files.lines import Dialogue, FileKind, Message, dialogue_of, read_dialogue, read_task
from server.runs.settings import MAX_TASKS, InlineTask
from wire.errors import HeadwayError, InvalidRequest
from wire.graders.shapes import GRADER, Grader
from wire.graders.tasks import GRADED_ENVIRONMENT, GRADED_TASK
from wire.graders.templates import NoSuchValue, Reference, Template

_LEADING = ("system", "developer")
_ASKING = ("user", "assistant")
_HEAVY = ("turns", "prompt_token_ids", "output_token_ids", "output_logprobs")
"""What a trajectory has besides its words: no grader sees it."""


def read_tasks(content: bytes, kind: FileKind, grader: dict[str, Any], field: str) -> list[InlineTask]:
    """The tasks of a file. `field`: where it was asked for.

    Raises InvalidRequest for a line that is none, by its number: also for one without a field that the grader names.
    """
    as_task = _named_task if kind == "tasks" else _graded_by(GRADER.validate_python(grader))
    tasks = list[InlineTask]()
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            tasks.append(as_task(number, line))
        except HeadwayError as error:
            raise InvalidRequest(f"{field}, line {number}: {error.message}") from None
    if len(tasks) > MAX_TASKS:
        raise InvalidRequest(f"{field} has {len(tasks)} lines; a job takes {MAX_TASKS}")
    return tasks


def _named_task(number: int, line: bytes) -> InlineTask:
    said = read_task(line)
    return InlineTask(env=said.env, id=said.task, args=said.args, slug=said.slug or f"line-{number}")


def _graded_by(grader: Grader) -> Callable[[int, bytes], InlineTask]:
    shown = grader.model_dump(mode="json", exclude_none=True)
    references = [one for text in grader.templates() for one in Template(text).references() if one.root == "item"]

    def as_task(number: int, line: bytes) -> InlineTask:
        dialogue = _dialogue(line)
        prompt, instructions = _asked(dialogue)
        _refuse_missing(references, dialogue.item)
        return InlineTask(
            env=GRADED_ENVIRONMENT,
            id=GRADED_TASK,
            args={"messages": prompt, "item": dialogue.item, "grader": shown},
            slug=f"line-{number}",
            agent_config={"system_prompt": instructions} if instructions else None,
        )

    return as_task


def _dialogue(line: bytes) -> Dialogue:
    """The words of a conversation, or of a trajectory that has some."""
    said = json.loads(line)
    if not any(name in said for name in _HEAVY):
        return read_dialogue(line)
    if not said.get("prompt") or said.get("completion") is None:
        raise InvalidRequest("is a rollout without words, so there is nothing to ask again")
    return dialogue_of({name: value for name, value in said.items() if name not in _HEAVY})


def _asked(dialogue: Dialogue) -> tuple[list[dict[str, str]], str]:
    """The conversation, and the instructions before it: the SDK's agents take them apart."""
    if dialogue.tools:
        raise InvalidRequest("tools are not offered where a grader grades; deploy an environment that has them")
    if "messages" in dialogue.item and dialogue.completion:
        raise InvalidRequest("messages must end with the user's: what the model is to answer is not given")
    start = next((index for index, one in enumerate(dialogue.prompt) if one.role not in _LEADING), len(dialogue.prompt))
    leading, rest = dialogue.prompt[:start], dialogue.prompt[start:]
    if not rest or rest[-1].role != "user":
        raise InvalidRequest("messages must end with the user's")
    return [_turn(one) for one in rest], "\n\n".join(one.text for one in leading)


def _turn(message: Message) -> dict[str, str]:
    if message.role not in _ASKING:
        raise InvalidRequest(f"a message of the role {message.role!r} is taken before all others alone")
    if message.tool_calls:
        raise InvalidRequest("tool calls are not offered where a grader grades; deploy an environment that has tools")
    return {"role": message.role, "content": message.text}


def _refuse_missing(references: Sequence[Reference], item: dict[str, Any]) -> None:
    for one in references:
        try:
            one.value(item)
        except NoSuchValue:
            raise InvalidRequest(f"has no {one}, which the grader names") from None
