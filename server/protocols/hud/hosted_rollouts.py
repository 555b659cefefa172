"""`/v2/rollouts/submit`: the SDK's `HostedRuntime`."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends
from pydantic import BaseModel, Field

from server.hosted_rollouts.submissions import Submission
from server.hosted_rollouts.submitting import submit
from server.http.authentication import CallerDep
from server.http.context import ContextDep
from server.http.request_body import UPLOAD
from server.protocols.hud.shared.routing import HudRouter
from server.values.closed_requests import Closed

router = HudRouter(tags=["rollouts"])

_Name = Annotated[str, Field(min_length=1, max_length=1000)]


class Agent(Closed):
    """As the SDK dumps it."""

    type: str = Field(max_length=100)
    config: dict[str, Any] = Field(default_factory=dict)


class RolloutSubmission(Closed):
    """A whole rollout, environment and agent. What is not understood is refused, for it would change the result."""

    trace_id: UUID
    job_id: UUID
    env: _Name
    task: _Name
    slug: _Name | None = None
    args: dict[str, Any] = Field(default_factory=dict)
    agent: Agent
    group_id: _Name | None = None
    parent_trace_id: _Name | None = None
    runtime_config: dict[str, Any] | None = None
    verifier: dict[str, Any] | None = None


class Accepted(BaseModel):
    """`status`: pending, or what has become of it when it is submitted again."""

    trace_id: str
    status: str


@router.post("/v2/rollouts/submit", status_code=202, dependencies=[Depends(UPLOAD)])
async def submit_rollout(context: ContextDep, caller: CallerDep, body: RolloutSubmission) -> Accepted:
    """Have a runner carry out a rollout; the same trace id again is answered again."""
    submission = Submission(
        trace_id=body.trace_id,
        job_id=body.job_id,
        environment=body.env,
        task=body.task,
        agent_type=body.agent.type,
        agent_config=body.agent.config,
        args=body.args,
        slug=body.slug,
        group_id=body.group_id,
        parent_trace_id=body.parent_trace_id,
        verifier=body.verifier,
        runtime_config=body.runtime_config,
    )
    submitted = await submit(context.database, caller, submission)
    return Accepted(trace_id=str(submitted.trace_id), status=submitted.status)
