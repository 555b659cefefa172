"""Which rollouts a request asks for, as query parameters: the same for lists and exports."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Depends, Query

from server.http.authentication import AnyCallerDep
from server.rollouts.visibility import models_of
from store.rollouts import TraceFilter

_Text = Annotated[str | None, Query(max_length=512)]
_Reward = Annotated[float | None, Query(allow_inf_nan=False)]


async def asked_filter(
    caller: AnyCallerDep,
    model_id: UUID | None = None,
    job_id: UUID | None = None,
    group_id: _Text = None,
    task_slug: _Text = None,
    checkpoint_id: UUID | None = None,
    min_reward: _Reward = None,
    max_reward: _Reward = None,
    status: Literal["running", "completed", "error", "cancelled"] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    has_samples: bool | None = None,
    text: _Text = None,
    label: _Text = None,
    has_comments: bool | None = None,
) -> TraceFilter:
    """The filter; rollouts have to fit all of it, and be of the models that the key opens. text: words that were said;
    `"in this order"`, `-without`, `begin*`."""
    return TraceFilter(
        model_id,
        job_id,
        group_id,
        task_slug,
        checkpoint_id,
        min_reward,
        max_reward,
        status,
        since,
        until,
        has_samples,
        models_of(caller),
        text,
        label,
        has_comments,
    )


FilterDep = Annotated[TraceFilter, Depends(asked_filter)]
