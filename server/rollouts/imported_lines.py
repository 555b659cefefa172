"""One line of an import, read and checked: its arrays never become lists of Python numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn
from uuid import UUID

import numpy as np
from pydantic import ValidationError

from server.rollouts import transfer_types
from server.uploads.json_scanner import JsonScanner
from server.values.sanitizing import readable_value, refuse_deep, storable_text, text_or_none
from server.values.validation_messages import first_problem
from store.rollouts import Conversation, ImportedTurn, NewTrace, Served, content_id
from store.rollouts.comments import ImportedComment
from wire.errors import InvalidRequest, TooLarge
from wire.extension import Int32Array, Media
from wire.trajectories import Turn


@dataclass(frozen=True, slots=True)
class Line:
    """A rollout as its line describes it. `trace_id`: of the line, or made from what it holds."""

    said: transfer_types.ImportedTrace
    turns: Sequence[ImportedTurn]
    trace_id: UUID
    evaluation_result: dict[str, Any] | None
    extra: dict[str, Any] | None

    @property
    def model(self) -> str | None:
        """The name of the model that it was sampled from."""
        return self.said.model

    def media(self) -> Iterator[tuple[str, Media]]:
        """The pictures of its prompts, each with its place."""
        for number, one in enumerate(self.turns, 1):
            for at, item in enumerate(one.turn.media):
                yield f"turn {number}: prompt_media[{at}]", item

    def as_trace(self, team_id: UUID, job_id: UUID | None, model_id: UUID | None) -> NewTrace:
        """For a team; under this job, or else under the line's own."""
        said = self.said
        ended = said.exited_at or datetime.now(UTC)
        return NewTrace(
            team_id,
            self.trace_id,
            self.turns,
            None if said.status == "running" or said.timed_out else storable_text(said.status),
            said.reward,
            frozenset(storable_text(flag) for flag in said.flags or ()),
            job_id=job_id or said.job_id,
            group_id=text_or_none(said.group_id),
            parent_trace_id=text_or_none(said.parent_trace_id),
            task_slug=text_or_none(said.task_slug),
            model=text_or_none(said.model),
            model_id=model_id,
            error=text_or_none(said.error),
            stop_reason=text_or_none(said.stop_reason),
            evaluation_result=self.evaluation_result,
            extra=self.extra,
            entered_at=said.entered_at or said.created_at,
            exited_at=None if said.status == "running" or said.timed_out else ended,
            timed_out_at=ended if said.timed_out else None,
            labels=list(dict.fromkeys(said.labels or ())),
            comments=[_comment(one) for one in said.comments or ()],
        )


def _comment(said: transfer_types.ImportedComment) -> ImportedComment:
    at = said.created_at
    if at is not None and at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return ImportedComment(storable_text(said.author), said.text, at)


def read_line(data: bytes, max_tokens: int) -> Line:
    """The line's rollout. Raises InvalidRequest with one sentence for whatever is wrong with it, or TooLarge."""
    scanner = JsonScanner(max_tokens)
    try:
        scanner.feed(data)
        said = transfer_types.ImportedTrace.model_validate_json(scanner.finish(), context=scanner.arrays)
    except ValidationError as error:
        raise InvalidRequest(first_problem(error.errors(include_url=False, include_input=False))) from None
    except TooLarge as error:
        raise InvalidRequest(error.message.replace("the batch", "the line")) from None
    turns = [_read_turn(f"turn {number}", turn) for number, turn in enumerate(_turns(said), 1)]
    return Line(
        said,
        turns,
        said.trace_id or content_id(turns, said.reward),
        readable_value(_object("evaluation_result", said.evaluation_result)),
        readable_value(_object("extra", said.extra)),
    )


def _turns(said: transfer_types.ImportedTrace) -> list[transfer_types.ImportedTurn]:
    alone = said.prompt_token_ids, said.output_token_ids
    if said.turns is not None:
        if any(array is not None for array in alone) or len(said.output_logprobs):
            raise InvalidRequest("has both turns and token arrays of its own; send one or the other")
        return said.turns
    prompt, output = alone
    if prompt is None or output is None:
        raise InvalidRequest("has no turns: send turns, or prompt_token_ids and output_token_ids")
    return [
        transfer_types.ImportedTurn.model_construct(
            prompt_token_ids=prompt, output_token_ids=output, output_logprobs=said.output_logprobs
        )
    ]


def _read_turn(where: str, said: transfer_types.ImportedTurn) -> ImportedTurn:
    logprobs = said.output_logprobs if said.output_logprobs is not None else np.zeros(0, np.float32)
    for name, ids in (("prompt_token_ids", said.prompt_token_ids), ("output_token_ids", said.output_token_ids)):
        if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= 2**31):
            raise InvalidRequest(f"{where}: {name} holds a number that is no token id")
    if not len(said.output_token_ids):
        raise InvalidRequest(f"{where}: output_token_ids is empty, so there is nothing to train on")
    if len(logprobs) not in (0, len(said.output_token_ids)):
        raise InvalidRequest(
            f"{where}: {len(logprobs)} output_logprobs for {len(said.output_token_ids)} output_token_ids; send one "
            "for each, or none"
        )
    if not np.isfinite(logprobs).all():
        raise InvalidRequest(f"{where}: output_logprobs holds a value that is not a finite float32 number")
    prompt_ids = said.prompt_token_ids.astype(np.int32, copy=False)
    media = _media(where, prompt_ids, said.prompt_media)
    turn = Turn(prompt_ids, said.output_token_ids.astype(np.int32, copy=False), logprobs, media)
    asked = _conversation(where, said.request)
    return ImportedTurn(turn, _served(where, said, asked), *_told(asked))


def _media(where: str, ids: Int32Array, said: Sequence[transfer_types.ImportedMedia]) -> tuple[Media, ...]:
    """Which tokens of a picture stand for it is the base's rule; here each run must be whole and of one id."""
    found, end = list[Media](), 0
    for number, one in enumerate(said):
        item = Media(one.start, one.num_tokens, bytes.fromhex(one.name), one.width, one.height)
        if not end <= item.start < item.stop <= len(ids):
            raise InvalidRequest(
                f"{where}: prompt_media[{number}] has tokens {item.start} to {item.stop} of {len(ids)}, behind {end}"
            )
        if (ids[item.start : item.stop] != ids[item.start]).any():
            raise InvalidRequest(f"{where}: the tokens of prompt_media[{number}] are not all the same placeholder")
        found.append(item)
        end = item.stop
    return tuple(found)


def _conversation(where: str, text: str | None) -> Conversation | None:
    asked = _object(f"{where}: request", text)
    if asked is None:
        return None
    preamble, messages = asked.get("preamble", {}), asked.get("messages", [])
    if not isinstance(preamble, dict) or not isinstance(messages, list):
        raise InvalidRequest(f"{where}: request must hold preamble (an object), messages (a list) and reply")
    return Conversation(preamble, messages, asked.get("reply"))


def _served(where: str, said: transfer_types.ImportedTurn, asked: Conversation | None) -> Served | None:
    if said.served_at is None:
        return None
    return Served(
        said.served_at,
        storable_text(said.completion_id or ""),
        said.model_id,
        said.checkpoint_id,
        readable_value(_object(f"{where}: sampling", said.sampling) or {}),
        text_or_none(said.finish_reason),
        said.seconds or 0.0,
        asked,
    )


def _told(asked: Conversation | None) -> tuple[str | None, list[Any]]:
    """What people read of the answer: its text, and calls in the form of a step's."""
    reply: Any = asked.reply if asked else None
    if not isinstance(reply, dict):
        return (reply if isinstance(reply, str) else None), []
    calls = [call.get("function") for call in reply.get("tool_calls") or [] if isinstance(call, dict)]
    content = reply.get("content")
    return (content if isinstance(content, str) else None), [call for call in calls if isinstance(call, dict)]


def _object(name: str, text: str | None) -> dict[str, Any] | None:
    """JSON within a string. What PostgreSQL cannot hold of it is replaced where it is stored."""
    if text is None:
        return None
    try:
        value: Any = json.loads(text)
    except RecursionError:
        raise InvalidRequest(f"{name} is nested too deeply") from None
    except ValueError:
        _not_an_object(name)
    if value is not None and not isinstance(value, dict):
        _not_an_object(name)
    refuse_deep(value, name)
    return value


def _not_an_object(name: str) -> NoReturn:
    raise InvalidRequest(f"{name} must be a JSON object written as a string")
