"""Rollouts that come in as lines of JSON: what `GET /v2/traces/export?format=headway` writes, or what others write."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import numpy as np
from pydantic import AfterValidator, BaseModel, Field

from server.rollouts.note_types import MOST_COMMENTS, MOST_LABELS, checked_comment, checked_label
from server.uploads.json_fields import Closed, Floats, Text, TokenIds

TRACE_FORMAT = "headway-trace/1"


def _known_format(name: str) -> str:
    if name != TRACE_FORMAT:
        raise ValueError(f"must be {TRACE_FORMAT!r}, which is what this server reads")
    return name


Short = Annotated[Text, Field(max_length=512)]


class ImportedMedia(Closed):
    """A picture of a prompt: its run of placeholder ids, its name, and its size in pixels."""

    start: int = Field(ge=0, lt=2**31)
    num_tokens: int = Field(ge=1, lt=2**31)
    name: str = Field(pattern="^[0-9a-f]{64}$")
    width: int = Field(ge=1, lt=2**31)
    height: int = Field(ge=1, lt=2**31)


class ImportedTurn(Closed):
    """One sampling call. Without `output_logprobs` only cross_entropy can train on it.

    `prompt_media`: pictures of the prompt, which the team must have sent (`POST /v2/pictures`).
    `sampling` and `request` (preamble, messages, reply) are JSON within a string. From `checkpoint_id` on: what the
    gateway knew of it; only with a `served_at` does it count.
    """

    prompt_token_ids: TokenIds
    prompt_media: list[ImportedMedia] = Field(default_factory=list[ImportedMedia])
    output_token_ids: TokenIds
    output_logprobs: Floats | None = None
    checkpoint_id: UUID | None = None
    model_id: UUID | None = None
    served_at: datetime | None = None
    completion_id: Short | None = None
    sampling: Text | None = None
    finish_reason: Short | None = None
    seconds: float | None = Field(default=None, allow_inf_nan=False)
    request: Text | None = None


class ImportedComment(Closed):
    """What somebody wrote about the rollout."""

    author: Short
    text: Annotated[Text, AfterValidator(checked_comment)]
    created_at: datetime | None = None


class ImportedTrace(Closed):
    """A rollout. `turns`, or the three arrays of its only turn. `prompt` and `completion` are not read.

    `trace_id`: without one, the rollout is known by what it holds. `evaluation_result` and `extra` are JSON within a
    string.
    """

    format: Annotated[str, AfterValidator(_known_format)] | None = None
    trace_id: UUID | None = None
    prompt: Any = None
    completion: Any = None
    reward: float | None = Field(default=None, allow_inf_nan=False)
    status: Short = "completed"
    timed_out: bool | None = None
    error: Text | None = None
    stop_reason: Text | None = None
    evaluation_result: Text | None = None
    extra: Text | None = None
    job_id: UUID | None = None
    group_id: Text | None = None
    parent_trace_id: Text | None = None
    task_slug: Text | None = None
    model: Text | None = None
    created_at: datetime | None = None
    entered_at: datetime | None = None
    exited_at: datetime | None = None
    flags: list[Short] | None = Field(default=None, max_length=100)
    labels: list[Annotated[Text, AfterValidator(checked_label)]] | None = Field(default=None, max_length=MOST_LABELS)
    comments: list[ImportedComment] | None = Field(default=None, max_length=MOST_COMMENTS)
    turns: list[ImportedTurn] | None = None
    prompt_token_ids: TokenIds | None = None
    output_token_ids: TokenIds | None = None
    output_logprobs: Floats = Field(default_factory=lambda: np.zeros(0, np.float32))


class RefusedLine(BaseModel):
    """`line` counts from 1. `trace_id`: as far as it could be read."""

    line: int
    trace_id: str | None
    detail: str


class ImportResult(BaseModel):
    """What became of the lines of an import. Each counts once; a refused one changed nothing.

    `unchanged`: on record already, the same. `rescored`: on record, and its reward and status are new. `refused` holds
    the first of the refusals, `num_refused` counts all.
    """

    imported: int = 0
    unchanged: int = 0
    rescored: int = 0
    num_refused: int = 0
    refused: list[RefusedLine] = Field(default_factory=list[RefusedLine])
    job_id: str | None = None
