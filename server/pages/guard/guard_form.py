"""Changing a model's guard in the browser: a rule at a time, and what counts as an evaluation."""

from __future__ import annotations

from typing import Any, get_args

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from server.guard import settings
from server.guard.rules import RULES
from server.guard.types import Action, GuardRequest, RuleSettings
from server.http.context import Context, ContextDep
from server.pages.guard.guard_tab import ACTIONS, seen_rules
from server.pages.shared.forms import as_request, submitted
from server.pages.shared.rendering import page
from server.pages.shared.routing import PageRouter
from server.pages.shared.sessions import Visitor
from server.pages.shared.signing_in import VisitorDep
from server.pages.shared.visible_models import find_fork
from store.tables import ModelRow
from wire.errors import HeadwayError, InvalidRequest, NotFound

router = PageRouter()


@router.get("/models/{model_id}/guard/evaluations")
async def evaluations_form(context: ContextDep, request: Request, visitor: VisitorDep, model_id: str) -> Response:
    """Which jobs are evaluations, and where the webhook goes."""
    return await _ask_about_evaluations(context, request, visitor, model_id)


@router.get("/models/{model_id}/guard/rules/{rule}")
async def rule_form(context: ContextDep, request: Request, visitor: VisitorDep, model_id: str, rule: str) -> Response:
    """A rule, its thresholds, and what it does."""
    return await _ask_about_rule(context, request, visitor, model_id, rule)


@router.post("/forms/models/{model_id}/guard/evaluations")
async def set_evaluations(context: ContextDep, request: Request, visitor: VisitorDep, model_id: str) -> Response:
    """Set them. A refusal is shown on the form, which keeps what was filled in."""
    fields = await submitted(request, visitor)
    patterns = [line.strip() for line in fields.get("eval_jobs", "").splitlines() if line.strip()]
    changes: dict[str, Any] = {"eval_jobs": None if patterns == settings.EVAL_JOBS else patterns}
    if visitor.may_see_keys:
        changes["webhook_url"] = fields.get("webhook_url", "").strip() or None
    try:
        model = await _set(context, visitor, model_id, changes)
    except HeadwayError as error:
        return await _ask_about_evaluations(context, request, visitor, model_id, error, fields)
    return RedirectResponse(f"/models/{model.id}?tab=guard", 303)


@router.post("/forms/models/{model_id}/guard/rules/{rule}")
async def set_rule(context: ContextDep, request: Request, visitor: VisitorDep, model_id: str, rule: str) -> Response:
    """Set a rule, or (`reset`) leave it to its defaults. A refusal is shown on the form."""
    fields = await submitted(request, visitor)
    try:
        wanted = None if "reset" in fields else _rule_settings(rule, fields)
        model = await _set(context, visitor, model_id, {}, {rule: wanted})
    except HeadwayError as error:
        return await _ask_about_rule(context, request, visitor, model_id, rule, error, fields)
    return RedirectResponse(f"/models/{model.id}?tab=guard", 303)


async def _set(
    context: Context,
    visitor: Visitor,
    model_id: str,
    changes: dict[str, Any],
    rules: dict[str, RuleSettings | None] | None = None,
) -> ModelRow:
    """Change these things (a rule of None: to its defaults) and leave the others as they are."""
    if webhook_url := changes.get("webhook_url"):
        asked = as_request(GuardRequest, {"webhook_url": webhook_url})
        await settings.check_webhook(context.settings.guard, visitor.caller, asked)
    async with context.database.session() as session:
        model, _ = await find_fork(session, visitor, model_id)
        was = await settings.read_set(session, model.id, lock=True)
        changed = {**was.rules, **(rules or {})}
        kept = {name: rule.model_dump(exclude_defaults=True) for name, rule in changed.items() if rule is not None}
        body = as_request(GuardRequest, {**was.model_dump(exclude={"rules"}), **changes, "rules": kept})
        await settings.set_guard(session, visitor.caller, model, body)
        return model


async def _ask_about_rule(
    context: Context,
    request: Request,
    visitor: Visitor,
    model_id: str,
    rule: str,
    error: HeadwayError | None = None,
    fields: dict[str, str] | None = None,
) -> Response:
    visitor.caller.require("train")
    if rule not in RULES:
        raise NotFound(f"there is no rule {rule[:100]!r}; there are {', '.join(RULES)}")
    async with context.database.session() as session:
        model, _ = await find_fork(session, visitor, model_id)
        guard = await settings.read_guard(session, model.id)
        was = await settings.read_set(session, model.id)
    (seen,) = [one for one in seen_rules(guard, was) if one.name == rule]
    values: dict[str, Any] = {"model": model, "rule": seen, "fields": fields, "actions": ACTIONS}
    return page(request, "guard/rule.html", visitor, error=error, has_webhook=bool(guard.webhook_url), **values)


async def _ask_about_evaluations(
    context: Context,
    request: Request,
    visitor: Visitor,
    model_id: str,
    error: HeadwayError | None = None,
    fields: dict[str, str] | None = None,
) -> Response:
    visitor.caller.require("train")
    async with context.database.session() as session:
        model, _ = await find_fork(session, visitor, model_id)
        guard = settings.shown_to(visitor.caller, await settings.read_guard(session, model.id))
    shown = {"eval_jobs": "\n".join(guard.eval_jobs), "webhook_url": guard.webhook_url or ""}
    values: dict[str, Any] = {"model": model, "fields": {**shown, **(fields or {})}}
    return page(request, "guard/evaluations.html", visitor, error=error, defaults=settings.EVAL_JOBS, **values)


def _rule_settings(name: str, fields: dict[str, str]) -> RuleSettings:
    """What the form sets beyond the defaults. Raises InvalidRequest for a threshold that is no number."""
    if name not in RULES:
        raise NotFound(f"there is no rule {name[:100]!r}; there are {', '.join(RULES)}")
    rule = RULES[name]
    actions = [action for action in get_args(Action) if f"action_{action}" in fields]
    parameters = {
        key: _number(key, fields[f"p_{key}"]) for key in rule.parameters if fields.get(f"p_{key}", "").strip()
    }
    values: dict[str, Any] = {
        "enabled": "enabled" in fields,
        "actions": None if set(actions) == set(rule.actions) else actions,
        "parameters": {key: value for key, value in parameters.items() if value != rule.parameters[key]},
    }
    return as_request(RuleSettings, values)


def _number(name: str, said: str) -> float:
    try:
        return float(said)
    except ValueError:
        raise InvalidRequest(f"{name.replace('_', ' ')} must be a number, such as 0.5") from None
