"""Rollouts with the shape of real ones: turns that go on from one another, as gateway and telemetry tell of them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from store.blob_stores import BlobStore
from store.blob_stores.file import FileBlobStore
from store.rollouts import Conversation, NewSample, Served
from wire.trajectories import Turn


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return FileBlobStore(tmp_path / "blobs")


def make_turns(count: int, *, length: int = 5, seed: int = 0) -> list[Turn]:
    """Turns of which each prompt is the last prompt, its output, and something new."""
    random = np.random.default_rng(seed)
    turns, prompt = list[Turn](), random.integers(0, 9999, length).astype(np.int32)
    for _ in range(count):
        output = random.integers(0, 9999, length).astype(np.int32)
        turns.append(Turn(prompt, output, -random.random(length).astype(np.float32)))
        prompt = np.concatenate([prompt, output, random.integers(0, 9999, length).astype(np.int32)])
    return turns


def conversations(count: int) -> list[Conversation]:
    messages: list[Any] = [{"role": "user", "content": "begin"}]
    found = list[Conversation]()
    for number in range(count):
        reply = {"role": "assistant", "content": f"move {number}"}
        found.append(Conversation({"tools": [{"name": "move"}]}, list(messages), reply))
        messages += [reply, {"role": "tool", "content": f"board {number}"}]
    return found


def served(conversation: Conversation | None = None, **changes: Any) -> Served:
    values: dict[str, Any] = {
        "at": datetime.now(UTC),
        "completion_id": uuid.uuid4().hex,
        "model_id": None,
        "checkpoint_id": None,
        "sampling": {"temperature": 1.0},
        "finish_reason": "stop",
        "seconds": 0.25,
    }
    return Served(**{**values, **changes}, conversation=conversation)


def samples(team_id: UUID, trace_id: UUID, turns: Sequence[Turn], **changes: Any) -> list[NewSample]:
    """As the gateway tells of them."""
    asked = conversations(len(turns))
    return [NewSample(team_id, trace_id, turn, served(one, **changes)) for turn, one in zip(turns, asked, strict=True)]


def agent_span(trace_id: UUID, step_id: int, turn: Turn, **changes: Any) -> dict[str, Any]:
    """An agent's step as the SDK sends it, with the whole completion."""
    ids, logprobs = turn.output_ids.tolist(), turn.sampling_logprobs.tolist()
    entries = [
        {"token": f"t{i}", "logprob": p, "bytes": list(f"t{i}".encode()), "top_logprobs": []}
        for i, p in zip(ids, logprobs, strict=True)
    ]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "é\ud800"},
        "finish_reason": "stop",
        "prompt_token_ids": turn.prompt_ids.tolist(),
        "token_ids": list(ids),
        "logprobs": {"content": entries},
    }
    sample = {"prompt_token_ids": turn.prompt_ids.tolist(), "output_token_ids": ids, "output_logprobs": logprobs}
    payload = {
        "step_id": step_id,
        "source": "agent",
        "content": "é\ud800",
        "tool_calls": [{"id": "c", "name": "move", "arguments": {"to": 1}}],
        "raw": {"id": "cmpl", "choices": [choice], "prompt_token_ids": turn.prompt_ids.tolist()},
        "sample": sample,
        **changes,
    }
    return span(trace_id, payload)


def span(trace_id: UUID, payload: Any, **changes: Any) -> dict[str, Any]:
    return {
        "name": "step",
        "trace_id": trace_id.hex,
        "span_id": uuid.uuid4().hex[:16],
        "start_time": "2026-01-02T03:04:05.000006Z",
        "end_time": "2026-01-02T03:04:06Z",
        "status_code": "OK",
        "attributes": {"hud.task_run_id": trace_id.hex, "hud.schema": "hud.step.v1", "hud.payload": payload},
        "events": [],
        **changes,
    }
