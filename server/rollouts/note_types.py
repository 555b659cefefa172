"""Labels of rollouts and comments on them: what is one, and how clients send and read them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from server.values.sanitizing import is_storable

MOST_LABELS, LONGEST_LABEL = 20, 40
MOST_COMMENTS, LONGEST_COMMENT = 200, 4_000


def checked_label(text: str) -> str:
    """Raises ValueError for what is no label."""
    text = " ".join(text.split())
    if not text or len(text) > LONGEST_LABEL or not text.isprintable() or "," in text or not is_storable(text):
        raise ValueError(f"must be 1 to {LONGEST_LABEL} characters in one line, without commas")
    return text


def checked_comment(text: str) -> str:
    """Raises ValueError for what is no comment."""
    text = text.replace("\r\n", "\n").strip()
    if not text or len(text) > LONGEST_COMMENT or not is_storable(text):
        raise ValueError(f"must be 1 to {LONGEST_COMMENT} characters")
    return text


Label = Annotated[str, AfterValidator(checked_label)]
CommentText = Annotated[str, AfterValidator(checked_comment)]


class LabelChange(BaseModel):
    """Labels that a rollout shall have, and shall not have. The others stay."""

    model_config = ConfigDict(extra="forbid")

    add: list[Label] = Field(default_factory=list[str], fail_fast=True, max_length=MOST_LABELS)
    remove: list[Label] = Field(default_factory=list[str], fail_fast=True, max_length=MOST_LABELS)


class Labels(BaseModel):
    """Of a rollout, in the order in which they were added."""

    labels: list[str]


class NewComment(BaseModel):
    """What somebody has to say about a rollout."""

    model_config = ConfigDict(extra="forbid")

    text: CommentText


class Comment(BaseModel):
    """`author`: the name of the key that it was written with, as it was then."""

    id: UUID
    author: str
    text: str
    created_at: datetime


class CommentList(BaseModel):
    """The oldest first. `next_cursor`: hand it in as `cursor` to get what follows; null: this was the end."""

    items: list[Comment]
    next_cursor: str | None


class CommentDeleted(BaseModel):
    """Whether it was deleted."""

    deleted: bool
