"""What was recorded of rollouts: samples (tokens) and spans (steps). Both go when their trace goes."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKeyConstraint, Index, text
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, CreatedAt, UuidKey


def _names_of(table: str, column: str) -> Index:
    """Few rows name a blob, and collecting blobs asks which."""
    return Index(f"ix_{table}_{column}", column, postgresql_where=text(f"{column} is not null"))


def _of_a_trace() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["team_id", "trace_id"], ["traces.team_id", "traces.id"], ondelete="CASCADE")


class SampleRow(Base):
    """One sampling call of a rollout: prompt ids, output ids, sampling logprobs.

    `digest` is over all three, so the gateway's record and telemetry's of the same call are one row.
    `tokens` holds the prompt from `prompt_shared` on, the output and the logprobs (`store.rollouts.arrays`); the
    prompt before that is the beginning of `parent_digest`'s prompt and output. `media` are the pictures from there on
    (`store.rollouts.media`), null where there are none. `prompt_digest` and `end_digest` are over the ids up to the end
    of the prompt and of the output, pictures included: by them later prompts find what they continue.

    From `served_at` on: the gateway's record; null where only telemetry has the sample. `checkpoint_id` null then
    means the base weights. `conversation` is what was asked and answered (`store.rollouts.conversations`), its first
    `items_shared` messages being those of `conversation_parent`.
    """

    __tablename__ = "samples"
    __table_args__ = (
        _of_a_trace(),
        CheckConstraint("(tokens is null) <> (tokens_blob is null)", name="tokens_somewhere"),
        _names_of("samples", "tokens_blob"),
        _names_of("samples", "conversation_blob"),
        CheckConstraint("(parent_digest is null) = (prompt_shared = 0)", name="shares_with_a_parent"),
    )

    team_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    trace_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    digest: Mapped[bytes] = mapped_column(primary_key=True)
    recorded_at: Mapped[CreatedAt]
    prompt_length: Mapped[int]
    output_length: Mapped[int]
    parent_digest: Mapped[bytes | None]
    prompt_shared: Mapped[int] = mapped_column(default=0)
    prompt_digest: Mapped[bytes]
    end_digest: Mapped[bytes]
    tokens: Mapped[bytes | None]
    tokens_blob: Mapped[str | None]
    media: Mapped[bytes | None]

    attempt: Mapped[int | None]
    """Of a rollout that a runner drives: which attempt it was. Those of earlier attempts do not count."""
    served_at: Mapped[datetime | None]
    completion_id: Mapped[str | None]
    model_id: Mapped[uuid.UUID | None]
    checkpoint_id: Mapped[uuid.UUID | None]
    sampling: Mapped[dict[str, Any] | None]
    """Temperature and the like, as sent to the sampler."""
    finish_reason: Mapped[str | None]
    seconds: Mapped[float | None]
    """From the request to the last token."""
    conversation: Mapped[bytes | None]
    conversation_blob: Mapped[str | None]
    conversation_parent: Mapped[bytes | None]
    items_shared: Mapped[int | None]
    num_items: Mapped[int | None]
    items_digest: Mapped[bytes | None]


class SpanRow(Base):
    """One span of telemetry. `payload` is the whole span (`store.rollouts.payloads`), without what its sample repeats.

    A span that is sent again is the same row. Another content under the same `span_id` is another row with a flag;
    the first one counts. `flag` says why a span was kept but does not count; null for most.
    """

    __tablename__ = "spans"
    __table_args__ = (
        _of_a_trace(),
        _names_of("spans", "payload_blob"),
        CheckConstraint("(payload is null) <> (payload_blob is null)", name="payload_somewhere"),
    )

    team_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    trace_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    span_id: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[bytes] = mapped_column(primary_key=True)
    received_at: Mapped[CreatedAt]
    schema_tag: Mapped[str | None]
    name: Mapped[str | None]
    step_id: Mapped[int | None]
    source: Mapped[str | None]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    sample_digest: Mapped[bytes | None]
    flag: Mapped[str | None]
    num_bytes: Mapped[int]
    """Of the span as it was sent, without white space."""
    payload: Mapped[bytes | None]
    payload_blob: Mapped[str | None]


class TraceTextRow(Base):
    """What was said in a rollout, to be searched (`store.rollouts.texts`). Written in the background, after the fact.

    `text` is what a hit is shown in; `words` are its words with their places. Both are bounded.
    """

    __tablename__ = "trace_texts"
    __table_args__ = (_of_a_trace(), Index("ix_trace_texts_words", "words", postgresql_using="gin"))

    team_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    trace_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    text: Mapped[str]
    words: Mapped[str] = mapped_column(TSVECTOR())


class TraceCommentRow(Base):
    """What a person wrote about a rollout. `author` is the name of the key that they used."""

    __tablename__ = "trace_comments"
    __table_args__ = (_of_a_trace(), Index("ix_trace_comments_of_trace", "team_id", "trace_id", "created_at"))

    id: Mapped[UuidKey]
    team_id: Mapped[uuid.UUID]
    trace_id: Mapped[uuid.UUID]
    author: Mapped[str]
    text: Mapped[str]
    created_at: Mapped[CreatedAt]
