"""`/teams/<id>`: what a team uses, and its quotas, which operators set here."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from server.audit.recording import actor_of
from server.http.context import Context, ContextDep
from server.pages.shared.forms import as_request, submitted
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.sessions import Visitor
from server.pages.shared.signing_in import OperatorDep, VisitorDep
from server.team import service
from server.team.types import Quotas, TeamChange, TeamWithUsage
from wire.errors import HeadwayError, InvalidRequest

_UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_AMOUNT = re.compile(r"([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*([a-z]*)")

router = PageRouter()


@router.get("/teams/{team_id}")
async def team_page(context: ContextDep, request: Request, visitor: VisitorDep, team_id: UUID) -> Response:
    """One team."""
    return await _show(context, request, visitor, team_id)


@router.post("/forms/teams/{team_id}/quotas")
async def set_quotas(context: ContextDep, request: Request, visitor: OperatorDep, team_id: UUID) -> Response:
    """Set what the form changes; what it leaves as it was stays. A refusal is shown on the page."""
    fields = await submitted(request, visitor)
    try:
        async with context.database.session() as session:
            team = await service.get_team(session, str(team_id))
            shown = quotas_shown(Quotas(**{name: getattr(team, name) for name in Quotas.model_fields}))
            wanted = {
                name: _amount(name, fields[name]) for name in shown if fields.get(name, shown[name]) != shown[name]
            }
            change = TeamChange(quotas=as_request(Quotas, wanted))
            await service.change_team(session, team, change, actor_of(visitor.caller))
    except HeadwayError as error:
        return await _show(context, request, visitor, team_id, error, fields)
    return RedirectResponse(f"/teams/{team_id}", 303)


def quotas_shown(quotas: Quotas) -> dict[str, str]:
    """Quotas as the form shows them: whole GiB where they are whole, else bytes; no limit is empty."""
    shown = {name: "" if value is None else str(value) for name, value in quotas.model_dump().items()}
    if (num_bytes := quotas.max_storage_bytes) and num_bytes % 2**30 == 0:
        shown["max_storage_bytes"] = f"{num_bytes // 2**30} GiB"
    return shown


async def _show(
    context: Context,
    request: Request,
    visitor: Visitor,
    team_id: UUID,
    error: HeadwayError | None = None,
    fields: dict[str, str] | None = None,
) -> Response:
    visitor.caller.require("admin")
    async with context.database.session() as session:
        team = await service.describe_team(session, await service.get_team(session, str(team_id)))
    values: dict[str, Any] = {
        "team": team,
        "lines": quota_lines(team),
        "fields": {**quotas_shown(team.quotas), **(fields or {})},
    }
    return page(request, "team/team.html", visitor, error=error, **values)


def quota_lines(team: TeamWithUsage) -> list[dict[str, Any]]:
    """Name, label, what is used (None: not counted here), what may be, and what happens at the limit."""
    may, used = team.quotas, team.usage
    return [
        _line("max_models", "Models", used.num_models, may.max_models, "forks are refused (403)"),
        _line(
            "max_storage_bytes",
            "Storage of checkpoints",
            used.storage_bytes,
            may.max_storage_bytes,
            "steps are refused (403), and their gradients stay",
        ),
        _line(
            "max_concurrent_rollouts",
            "Rollouts at once",
            None,
            may.max_concurrent_rollouts,
            "further chats wait for up to a minute, and are refused (429) then",
        ),
        _line(
            "max_training_tokens_per_day",
            "Training tokens a day",
            used.training_tokens_today,
            may.max_training_tokens_per_day,
            "batches are refused (429) until 00:00 UTC; steps are not",
        ),
    ]


def _line(name: str, label: str, used: int | None, most: int | None, then: str) -> dict[str, Any]:
    percent = None if used is None or not most else min(100, round(100 * used / most))
    return {"name": name, "label": label, "used": used, "most": most, "then": then, "percent": percent}


def _amount(name: str, said: str) -> int | None:
    """A whole number; of bytes, with a unit if there is one; empty: no limit. Raises InvalidRequest."""
    text = said.replace(",", "").strip().lower()
    if not text:
        return None
    found = _AMOUNT.fullmatch(text)
    units = _UNITS if name == "max_storage_bytes" else {"": 1}
    if found is None or found[2] not in units or (units[found[2]] == 1 and "." in found[1]):
        raise InvalidRequest(f"{name}: {said[:40]!r} is no such number; leave it empty for no limit")
    return round(float(found[1]) * units[found[2]]) if "." in found[1] else int(found[1]) * units[found[2]]
