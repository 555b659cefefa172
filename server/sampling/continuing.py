"""A conversation whose client sends no token ids goes on from the ids that were sampled, where they are on record.

Text that was sampled need not tokenize back to the ids that were, and some templates leave reasoning out of a history;
a turn rendered anew would then begin a sequence of its own in training. So where the messages, up to an answer, the
tools and the template's arguments equal those of a recorded turn of the same rollout, that turn's prompt and output are
taken in their place, and only what follows is rendered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import structlog

from server.sampling.collaborators import Sampling
from server.sampling.fencing import fence
from server.sampling.recording import preamble_of
from server.sampling.requests import Chat, Rollout, SampleRequest
from server.sampling.target import Target
from store.rollouts import RecordedSample, read_rollouts
from wire.errors import ContextLengthExceeded, CorruptCheckpoint, InvalidRequest
from wire.media_items import media_items

log = structlog.get_logger(__name__)

T = TypeVar("T")


async def continued_from_record(sampling: Sampling, target: Target, chat: Chat, rollout: Rollout | None) -> Chat:
    """The chat, from the ids of the latest recorded turn that its messages repeat; as it is where there is none. Raises
    Forbidden as sampling does."""
    if not any(message.get("role") == "assistant" for message in chat.messages):
        return chat
    return continued(chat, await recorded_turns(sampling, target, rollout))


async def recorded_turns(sampling: Sampling, target: Target, rollout: Rollout | None) -> Sequence[RecordedSample]:
    """What the target's model answered to chats in this rollout, in order of time; nothing where nothing is recorded.
    Raises Forbidden as sampling does."""
    rollout = await fence(sampling.database, target.caller, target.model_id, rollout)
    if rollout is None:
        return []
    asked = sampling.database, sampling.recorder.blobs, target.team_id, [rollout.trace_id]
    try:
        found = await read_rollouts(*asked, conversations=True)
    except CorruptCheckpoint as error:  # the turn is then rendered anew
        log.warning("turns_not_read", reason=error.message)
        return []
    samples = [sample for one in found.values() for sample in (*one.reported, *one.others)]
    served = [(one.served_at, one) for one in samples if one.served_at is not None and _is_chat_of(target, one)]
    return [one for _, one in sorted(served, key=lambda pair: pair[0])]


def continued(chat: Chat, turns: Sequence[RecordedSample]) -> Chat:
    """The same, where the turns were read already."""
    preamble, messages = preamble_of(chat), chat.messages
    found = dict[int, RecordedSample]()
    for turn in turns:
        asked = turn.conversation
        if asked is None or len(asked.messages) >= len(messages) or asked.preamble != preamble:
            continue
        end = len(asked.messages)
        if _said(asked.reply) == _said(messages[end]) and asked.messages == messages[:end]:
            found[end + 1] = turn
    if not found:
        return chat
    num_messages = max(found)
    turn = found[num_messages].turn
    ids = [*turn.prompt_ids.tolist(), *turn.output_ids.tolist()]
    continued = {"continued_ids": ids, "continued_messages": num_messages, "continued_media": media_items(turn.media)}
    return replace(chat, render=chat.render.model_copy(update=continued))


async def unless_refused(
    work: Callable[[SampleRequest], Coroutine[Any, Any, T]], request: SampleRequest, plain: Chat
) -> T:
    """`work` for the request. Where the base's chat template cannot go on from ids (it writes a tool's result after
    a call that it sees alone, say), for the same request with the `plain` chat."""
    try:
        return await work(request)
    except InvalidRequest as error:
        if request.prompts[0] is plain or isinstance(error, ContextLengthExceeded):
            raise
    return await work(replace(request, prompts=[plain]))


def _is_chat_of(target: Target, sample: RecordedSample) -> bool:
    is_chat = sample.conversation is not None and isinstance(sample.conversation.reply, dict)
    return is_chat and sample.model_id == target.model_id and len(sample.turn.output_ids) > 0


def _said(message: Mapping[str, Any]) -> tuple[Any, ...]:
    """What an assistant's message says, however its calls' arguments are spaced. Ids of calls say nothing."""
    calls = [_called(call.get("function") or {}) for call in message.get("tool_calls") or []]
    return message.get("role"), message.get("content") or "", message.get("reasoning_content") or "", calls


def _called(function: Mapping[str, Any]) -> tuple[Any, Any]:
    arguments = function.get("arguments")
    try:
        read = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        read = arguments
    return function.get("name"), read
