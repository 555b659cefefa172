"""A rollout in full: its turns with tokens and logprobs, the telemetry's spans, and the events that people read."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

from server.rollouts.formats.pictures import media_of
from server.rollouts.ids import id_or_none
from server.rollouts.off_policy import Gap, gap_of_rollout, gap_of_sample
from server.rollouts.service import describe, found_trace, no_such_trace
from server.values.sanitizing import readable_json
from store.blob_stores import BlobStore
from store.database import AsyncDatabase
from store.rollouts import RecordedSample, RecordedSpan, Resolved, read_rollouts, read_spans, resolve_rollout
from store.rollouts.trainer_logprobs import TrainerLogprobs, TrainerLogprobsOf, read_trainer_logprobs


async def trace_detail(
    database: AsyncDatabase, blobs: BlobStore, team_id: UUID, trace_id: UUID, *, tokens: bool
) -> bytes:
    """The rollout as JSON. tokens: with ids and logprobs, of which a long rollout has megabytes. Raises NotFound.

    `turns`: what would be trained on, in order. `other_samples`: what the gateway served besides. `messages` is what
    was asked, `reply` what was read out of the answer; both null where only telemetry has the sample. `trainer`:
    the last pass that went over the sample, and how far its logprobs are from the sampler's; null where none did.
    """
    found = await read_rollouts(database, blobs, team_id, [trace_id], conversations=True)
    if trace_id not in found:
        raise no_such_trace(trace_id)
    rollout = found[trace_id]
    async with database.connection() as connection:
        kept = (await read_trainer_logprobs(connection, team_id, [trace_id])).get(trace_id, {})

    def write() -> bytes:
        resolved = resolve_rollout(rollout)
        chosen = {sample.digest for sample in resolved.samples}
        rest = [sample for sample in rollout.others if sample.digest not in chosen]
        return readable_json(
            {
                **describe(rollout.trace).model_dump(mode="json"),
                "turns_from": _source(resolved),
                "trainer_difference": _figures(gap_of_rollout(resolved.samples, kept)),
                "turns": [_shown(sample, kept, tokens=tokens) for sample in resolved.samples],
                "other_samples": [_shown(sample, kept, tokens=tokens) for sample in rest],
            }
        )

    return await asyncio.to_thread(write)


async def trace_spans(database: AsyncDatabase, blobs: BlobStore, team_id: UUID, trace_id: UUID) -> bytes:
    """The spans as they were sent, odd ones included, as JSON. Raises NotFound."""
    async with database.connection() as connection:
        await found_trace(connection, team_id, trace_id)
    spans = await read_spans(database, blobs, team_id, trace_id)
    shown = [{"received_at": one.received_at.isoformat(), "flag": one.flag, "span": one.span} for one in spans]
    return await asyncio.to_thread(readable_json, {"spans": shown})


async def trace_events(
    database: AsyncDatabase, blobs: BlobStore, team_id: UUID, trace_id: UUID
) -> list[dict[str, Any]]:
    """What the agent said and what its tools answered, in order; without telemetry, what the gateway saw of it.

    Raises NotFound.
    """
    async with database.connection() as connection:
        await found_trace(connection, team_id, trace_id)
    spans = await read_spans(database, blobs, team_id, trace_id)
    if events := [event for one in spans if one.flag is None and (event := _event(one)) is not None]:
        return events
    found = await read_rollouts(database, blobs, team_id, [trace_id], conversations=True)
    return [_said(sample) for sample in resolve_rollout(found[trace_id]).samples] if trace_id in found else []


def _source(resolved: Resolved) -> str | None:
    if not resolved.samples:
        return None
    return "telemetry" if resolved.is_reported else "gateway"


def _shown(sample: RecordedSample, kept: TrainerLogprobsOf, *, tokens: bool) -> dict[str, Any]:
    turn, asked = sample.turn, sample.conversation
    shown: dict[str, Any] = {
        "step_id": sample.step_id,
        "num_prompt_tokens": len(turn.prompt_ids),
        "num_output_tokens": len(turn.output_ids),
        "recorded_at": sample.recorded_at.isoformat(),
        "served_at": sample.served_at.isoformat() if sample.served_at else None,
        "completion_id": sample.completion_id,
        "model_id": id_or_none(sample.model_id),
        "checkpoint_id": id_or_none(sample.checkpoint_id),
        "sampling": sample.sampling,
        "finish_reason": sample.finish_reason,
        "seconds": sample.seconds,
        "request": asked.preamble if asked else None,
        "messages": asked.messages if asked else None,
        "reply": asked.reply if asked else None,
        "trainer": _trainer(sample, kept.get(sample.digest), tokens=tokens),
    }
    if tokens:
        shown["prompt_token_ids"] = turn.prompt_ids.tolist()
        shown["prompt_media"] = media_of(turn)
        shown["output_token_ids"] = turn.output_ids.tolist()
        shown["output_logprobs"] = turn.sampling_logprobs.tolist()
    return shown


def _trainer(sample: RecordedSample, kept: TrainerLogprobs | None, *, tokens: bool) -> dict[str, Any] | None:
    if kept is None:
        return None
    shown: dict[str, Any] = {
        "operation_id": str(kept.operation_id),
        "kind": kept.kind,
        "model_id": id_or_none(kept.model_id),
        "checkpoint_id": id_or_none(kept.checkpoint_id),
        "step": kept.step,
        "computed_at": kept.computed_at.isoformat(),
        "difference": _figures(gap_of_sample(sample, kept)),
    }
    if tokens:
        shown["logprobs"] = kept.logprobs.tolist()
    return shown


def _figures(gap: Gap | None) -> dict[str, float | int] | None:
    return gap.figures() if gap is not None else None


def _event(one: RecordedSpan) -> dict[str, Any] | None:
    payload = _dict(_dict(_dict(one.span).get("attributes")).get("hud.payload"))
    if one.source == "agent":
        return {
            "kind": "agent_message",
            "text": payload.get("content"),
            "reasoning": payload.get("reasoning"),
            "tool_calls": [_call(call) for call in _list(payload.get("tool_calls"))],
            "error": payload.get("error"),
        }
    if one.source == "tool":
        call, result = _dict(payload.get("call")), _dict(payload.get("result"))
        text = "\n".join(_text_of(block) for block in _list(result.get("content")) if _text_of(block))
        return {
            "kind": "tool_call",
            "tool_name": call.get("name"),
            "arguments": _dict(call.get("arguments")),
            "result_text": text,
            "error": payload.get("error") or (text or "the tool failed" if result.get("isError") else None),
        }
    return None


def _said(sample: RecordedSample) -> dict[str, Any]:
    reply: Any = sample.conversation.reply if sample.conversation else None
    message = _dict(reply)
    return {
        "kind": "agent_message",
        "text": reply if isinstance(reply, str) else message.get("content"),
        "reasoning": message.get("reasoning_content"),
        "tool_calls": [_call(_dict(call).get("function")) for call in _list(message.get("tool_calls"))],
        "error": None,
    }


def _call(call: Any) -> dict[str, Any]:
    """A name and an object: what the CLI prints."""
    call = _dict(call)
    name, arguments = call.get("name"), call.get("arguments")
    return {
        "name": name if isinstance(name, str) else "?",
        "arguments": arguments if isinstance(arguments, dict) else {"arguments": arguments},
    }


def _text_of(block: Any) -> str:
    text = _dict(block).get("text")
    return text if isinstance(text, str) else ""


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
