"""`/playground`: a conversation with one model or checkpoint, or the same one with two.

With scripts the answers are streamed, a request for each side; without, the form is answered by the page with both. The
conversation is in the form, so that servers keep nothing of it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import Response

from server.catalog.repository import list_models
from server.http.context import Context, ContextDep
from server.http.disconnects import unless_disconnected
from server.http.errors import REFUSED, refusal_of
from server.pages.playground.asking import SIDES, Asked, Message, Side, as_state, asked_by, read_state
from server.pages.playground.recording import end_recorded
from server.pages.shared.forms import submitted
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.sessions import Visitor
from server.pages.shared.signing_in import SamplingVisitorDep, VisitorDep
from server.sampling.service import sample
from server.sampling.targets import find_target
from wire.errors import InvalidRequest

_MOST_SUGGESTED = 200

router = PageRouter()

Name = Annotated[str, Query(max_length=600)]


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of a prompt on one side. `by`: the checkpoint that answered; None: base weights, or nobody."""

    text: str = ""
    reasoning: str = ""
    by: str | None = None
    finish_reason: str | None = None
    num_tokens: int = 0
    problem: str | None = None


@router.get("/playground")
async def playground(
    context: ContextDep, request: Request, visitor: VisitorDep, a: Name = "", b: Name = ""
) -> Response:
    """The form. a, b: whom to ask; at first the newest model, and its base beside it."""
    models, own = await _suggested(context, visitor)
    if not a and not b and own is not None:
        a, b = own
    return _page(request, visitor, models, {"a": a or next(iter(models), ""), "b": b})


@router.post("/forms/playground")
async def ask(context: ContextDep, request: Request, visitor: SamplingVisitorDep) -> Response:
    """Ask, and show what was answered."""
    fields = await submitted(request, visitor)
    models, _ = await _suggested(context, visitor)
    try:
        asked = asked_by(fields)
        answers = await unless_disconnected(request, _ask_all(context, visitor, asked))
    except REFUSED as error:
        refusal = refusal_of(error)
        if refusal is None:
            raise
        return _page(request, visitor, models, fields, problem=refusal.message, status=refusal.status)
    said, answered = dict(fields, prompt=""), dict(zip(asked.sides, answers, strict=True))
    if all(one.problem is not None for one in answers):
        said["prompt"] = asked.prompt
    for side, one in answered.items():
        if one.problem is None:
            messages = [*asked.said(side), Message(role="assistant", content=one.text)]
            said[f"state_{side}"] = as_state(messages)
        said[f"trace_{side}"] = str(asked.trace_of(side) or "")
    return _page(request, visitor, models, said, answered=answered)


async def _ask_all(context: Context, visitor: Visitor, asked: Asked) -> list[Answered]:
    return await asyncio.gather(*(_ask(context, visitor, asked, side) for side in asked.sides))


async def _ask(context: Context, visitor: Visitor, asked: Asked, side: Side) -> Answered:
    """One side's trouble is not the other's."""
    try:
        target = await find_target(context.sampling, visitor.caller, asked.model_of(side))
        (answer,) = await sample(context.sampling, target, asked.request(side, whole=True))
    except REFUSED as error:
        refusal = refusal_of(error)
        if refusal is None:
            raise
        return Answered(problem=refusal.message)
    await end_recorded(context.database, visitor.caller, asked.trace_of(side))
    message = answer.as_message()
    return Answered(
        message.get("content") or "",
        message.get("reasoning_content") or "",
        target.checkpoint.name if target.checkpoint else None,
        answer.finish_reason,
        len(answer.tokens),
    )


async def _suggested(context: Context, visitor: Visitor) -> tuple[list[str], tuple[str, str] | None]:
    """Names of the models that the key opens, and the newest fork with its base."""
    async with context.database.session() as session:
        rows, _ = await list_models(session, visitor.caller.team_id, _MOST_SUGGESTED, 0, visitor.caller.model_ids)
    own = [(model.slug, base.slug) for model, base in rows if base is not None and model.upstream is None]
    return [model.slug for model, _ in rows if model.upstream is None], own[-1] if own else None


def _page(
    request: Request,
    visitor: Visitor,
    models: list[str],
    said: dict[str, str],
    *,
    answered: dict[Side, Answered] | None = None,
    problem: str | None = None,
    status: int = 200,
) -> Response:
    values: dict[str, Any] = {"models": models, "said": said, "answered": answered or {}, "problem": problem}
    states = {side: _shown_state(said.get(f"state_{side}", "")) for side in SIDES}
    return page(request, "playground/playground.html", visitor, status=status, sides=SIDES, states=states, **values)


def _shown_state(text: str) -> list[Message]:
    """What was said before, as far as it can be read."""
    try:
        return read_state(text)
    except InvalidRequest:
        return []
