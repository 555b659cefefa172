"""Invented jobs and rollouts, brought in the way in which clients and the gateway bring them."""

from __future__ import annotations

import math
import random
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy.ext.asyncio import AsyncSession

from store.blob_stores import BlobStore
from store.database import AsyncDatabase
from store.rollouts import Conversation, NewSample, Served, TraceRecord, read_span, record
from store.rollouts.arrays import pack
from store.rollouts.digests import sample_digest
from store.tables import CheckpointRow, JobRow, ModelRow, OperationRow, TraceRow, TrainerLogprobsRow
from wire.trajectories import Turn

WORDS = ("the", "sum", "of", "both", "is", "a", "number", "that", "I", "can", "check", "with", "it", "now")
HUGE = "x" * 60_000


async def add_job(session: AsyncSession, team_id: uuid.UUID, name: str, **values: Any) -> JobRow:
    job = JobRow(team_id=team_id, id=uuid.uuid4(), name=name, **values)
    session.add(job)
    await session.flush()
    return job


def trace_row(team_id: uuid.UUID, **values: Any) -> TraceRow:
    """A rollout that completed; `reward` None: it still runs."""
    now = datetime.now(UTC)
    known: dict[str, Any] = {"created_at": now, "entered_at": now, "exited_at": now, "status": "completed", **values}
    if known.get("reward", 0.0) is None:
        known.update(status=None, exited_at=None)
    return TraceRow(team_id=team_id, id=uuid.uuid4(), **known)


async def add_groups(
    session: AsyncSession, job: JobRow, rewards: Sequence[Sequence[float | None]], model: ModelRow | None = None
) -> list[TraceRow]:
    """A group of each list of rewards; its task is `task-<n>`."""
    began = datetime.now(UTC) - timedelta(seconds=30 * len(rewards))
    seen = {"model_id": model.id, "model": model.slug} if model else {}
    rows = [
        trace_row(
            job.team_id,
            job_id=job.id,
            group_id=uuid.UUID(int=number + 1).hex,
            task_slug=f"task-{number}",
            reward=reward,
            created_at=began + timedelta(seconds=30 * number),
            **seen,
        )
        for number, group in enumerate(rewards)
        for reward in group
    ]
    session.add_all(rows)
    await session.flush()
    return rows


def turns(count: int, num_tokens: int, seed: int = 0) -> tuple[list[Turn], list[list[str]]]:
    """Turns that go on from one another, most of their tokens likely, and the texts of these."""
    rng, found, told = random.Random(seed), list[Turn](), list[list[str]]()
    prompt = list(range(100, 140))
    for _ in range(count):
        texts = [(" " if index else "") + rng.choice(WORDS) for index in range(num_tokens)]
        texts[-1] = ".\n"
        output = [1000 + WORDS.index(text.strip()) if text.strip() in WORDS else 13 for text in texts]
        logprobs = [
            math.log(max(1e-4, 1 - rng.random() ** 4)) if rng.random() < 0.9 else -5 * rng.random() for _ in texts
        ]
        found.append(Turn(np.array(prompt, np.int32), np.array(output, np.int32), np.array(logprobs, np.float32)))
        told.append(texts)
        prompt = [*prompt, *output, 7, 8, 9]
    return found, told


def span(trace_id: uuid.UUID, step_id: int, source: str, **payload: Any) -> dict[str, Any]:
    return {
        "name": f"step.{source}",
        "span_id": f"{step_id:016x}",
        "attributes": {
            "hud.task_run_id": trace_id.hex,
            "hud.schema": "hud.step.v1",
            "hud.payload": {"step_id": step_id, "source": source, **payload},
        },
    }


def agent_step(trace_id: uuid.UUID, step_id: int, turn: Turn, texts: list[str], **payload: Any) -> dict[str, Any]:
    """With the sample, and the completion that has the texts of its tokens."""
    ids, logprobs = turn.output_ids.tolist(), turn.sampling_logprobs.tolist()
    entries = [{"token": text, "logprob": p} for text, p in zip(texts, logprobs, strict=True)]
    sample = {"prompt_token_ids": turn.prompt_ids.tolist(), "output_token_ids": ids, "output_logprobs": logprobs}
    raw = {"choices": [{"index": 0, "token_ids": ids, "logprobs": {"content": entries}}]}
    said = {"content": "".join(texts), "finish_reason": "tool_calls", "raw": raw, "sample": sample, **payload}
    return span(trace_id, step_id, "agent", **said)


GAPS = (0.0, -0.02, 0.07, -0.3, 0.8, -2.0)
"""One of each level: trainer less sampler, in nats."""


async def pass_over(
    session: AsyncSession, trace: TraceRow, checkpoint: CheckpointRow, made: Sequence[Turn], step: int = 7
) -> OperationRow:
    """What a trainer keeps of a pass over turns on record; only for the first tokens of each it differs by `GAPS`."""
    operation = OperationRow(
        model_id=checkpoint.model_id,
        sequence=random.randrange(10**6, 10**9),
        kind="forward_backward",
        state="done",
        payload=b"",
        head_version=0,
    )
    session.add(operation)
    await session.flush()
    for turn in made:
        logprobs = turn.sampling_logprobs.copy()
        logprobs[: len(GAPS)] += np.array(GAPS, np.float32)
        session.add(
            TrainerLogprobsRow(
                team_id=trace.team_id,
                trace_id=trace.id,
                digest=sample_digest(turn),
                operation_id=operation.id,
                checkpoint_id=checkpoint.id,
                step=step,
                logprobs=pack(np.zeros(0, np.int32), np.zeros(0, np.int32), logprobs),
            )
        )
    return operation


async def tell(
    database: AsyncDatabase,
    blobs: BlobStore,
    trace: TraceRow,
    *,
    num_turns: int = 3,
    num_tokens: int = 40,
    checkpoint: CheckpointRow | None = None,
    is_reported: bool = True,
) -> None:
    """What the gateway records of the trace, and what telemetry tells of it, unless it does not."""
    made, texts = turns(num_turns, num_tokens)
    messages: list[Any] = [{"role": "system", "content": "You add numbers."}, {"role": "user", "content": "12+30=?"}]
    samples, steps = list[NewSample](), [span(trace.id, 1, "user", messages=messages)]
    for number, (turn, words) in enumerate(zip(made, texts, strict=True)):
        call = {"id": f"c{number}", "name": "add", "arguments": {"a": 12, "b": 30, "why": "<b>carry</b>"}}
        reply = {"role": "assistant", "content": "".join(words), "tool_calls": [{"function": call}]}
        conversation = Conversation({"tools": [{"type": "function", "function": {"name": "add"}}]}, [*messages], reply)
        served = Served(
            datetime.now(UTC),
            uuid.uuid4().hex,
            checkpoint.model_id if checkpoint else None,
            checkpoint.id if checkpoint else None,
            {"temperature": 1.0},
            "tool_calls",
            0.42,
            conversation=conversation,
        )
        samples.append(NewSample(trace.team_id, trace.id, turn, served))
        result = {"content": [{"type": "text", "text": "42\ud800" if number else HUGE}], "isError": number == 1}
        steps.append(agent_step(trace.id, 2 + 2 * number, turn, words, reasoning="Carry the one.", tool_calls=[call]))
        steps.append(span(trace.id, 3 + 2 * number, "tool", call=call, result=result))
        messages = [*messages, reply, {"role": "tool", "content": "42"}]
    score = {"phase": "evaluate", "name": "grade", "result": {"score": 0.5, "content": "half right"}}
    steps.append(span(trace.id, 3 + 2 * num_turns, "task", task_call=score))
    spans = [read_span(one, trace.id) for one in steps] if is_reported else []
    await record(database, blobs, [TraceRecord(trace.team_id, trace.id, samples, spans)])
