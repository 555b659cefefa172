"""What of a model's guard is set, and what is left at its default."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, cast
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from server.audit.recording import Actor, actor_of, record
from server.catalog.bases import untrained
from server.guard.rules import RULES
from server.guard.types import Action, Guard, GuardRequest, Rule, RuleSettings
from server.guard.webhooks import check_receiver, check_webhook_url
from server.principals.callers import Caller
from server.process.settings import GuardSettings
from store.tables import GuardRow, ModelRow
from wire.errors import InvalidRequest

EVAL_JOBS = [
    "eval *",
    "eval-*",
    "eval_*",
    "eval:*",
    "*held-out*",
    "*held out*",
    "*held_out*",
    "*heldout*",
    "*benchmark*",
]
"""Names of jobs that are evaluations unless a model says otherwise; case does not matter."""

_COUNTS = {"steps", "evaluations"}
_MOST = 1000


async def read_guard(session: AsyncSession, model_id: UUID) -> Guard:
    """The model's guard in full."""
    return in_full(await session.get(GuardRow, model_id, populate_existing=True))


async def read_set(session: AsyncSession, model_id: UUID, *, lock: bool = False) -> GuardRequest:
    """What of it is set, as `set_guard` takes it; all that is left out is a default. lock: for who changes it then."""
    if lock:
        await _lock(session, model_id)
    row = await session.get(GuardRow, model_id, populate_existing=True)
    if row is None:
        return GuardRequest()
    rules = {name: rule for name, rule in row.rules.items() if name in RULES}
    return GuardRequest.model_validate({"rules": rules, "eval_jobs": row.eval_jobs, "webhook_url": row.webhook_url})


async def check_webhook(settings: GuardSettings, caller: Caller, request: GuardRequest) -> None:
    """Raises InvalidRequest where the webhook would go nowhere. Before the session: it asks for addresses of names."""
    if request.webhook_url is not None and "keys" in caller.scopes:
        await check_receiver(settings, request.webhook_url)


async def set_guard(session: AsyncSession, caller: Caller, model: ModelRow, request: GuardRequest) -> Guard:
    """Replace what is set. Raises InvalidRequest for a base model and for what `write_guard` refuses, Forbidden where
    the webhook is not the caller's to set."""
    if model.base_id is None:
        raise InvalidRequest(f"{model.slug!r} is {untrained(model)}, which is not trained; guard the forks of a base")
    await _lock(session, model.id)
    before = await read_guard(session, model.id)
    if "keys" not in caller.scopes and request.webhook_url is None:
        request = request.model_copy(update={"webhook_url": before.webhook_url})  # which the caller cannot see
    if request.webhook_url != before.webhook_url:
        caller.require("keys")
    return shown_to(caller, await write_guard(session, model, request, actor_of(caller)))


def shown_to(caller: Caller, guard: Guard) -> Guard:
    """Who may not set the webhook does not see it either: it may carry a secret of its receiver."""
    return guard if "keys" in caller.scopes else guard.model_copy(update={"webhook_url": None})


async def write_guard(session: AsyncSession, model: ModelRow, request: GuardRequest, actor: Actor) -> Guard:
    """Replace what is set. Raises InvalidRequest for rules, parameters or URLs that there cannot be."""
    for name, rule in request.rules.items():
        _check_rule(name, rule)
    if request.webhook_url is not None:
        check_webhook_url(request.webhook_url)
    elif any("webhook" in (rule.actions or ()) for rule in request.rules.values()):
        raise InvalidRequest("a rule has the action 'webhook', and there is no webhook_url")
    rules = {name: rule.model_dump(exclude_defaults=True) for name, rule in request.rules.items()}
    values = {"rules": rules, "eval_jobs": request.eval_jobs, "webhook_url": request.webhook_url}
    row = insert(GuardRow).values(model_id=model.id, **values)
    await session.execute(row.on_conflict_do_update(index_elements=["model_id"], set_=values))
    # The URL may carry a secret of the receiver.
    facts = {"rules": rules, "eval_jobs": request.eval_jobs, "webhook": request.webhook_url is not None}
    record(session, actor, "set_guard", team_id=model.team_id, subject_id=model.id, **facts)
    return await read_guard(session, model.id)


def in_full(row: GuardRow | None) -> Guard:
    """What is set, over the defaults. A rule that there is no more is left out."""
    eval_jobs = row.eval_jobs if row and row.eval_jobs is not None else EVAL_JOBS
    rules = rules_in_full(row.rules if row else {})
    return Guard(rules=rules, eval_jobs=list(eval_jobs), webhook_url=row.webhook_url if row else None)


def rules_in_full(set_rules: Mapping[str, Any]) -> dict[str, Rule]:
    """The rules, with what is set of them over the defaults."""
    rules = dict[str, Rule]()
    for name, rule in RULES.items():
        found = RuleSettings.model_validate(set_rules.get(name, {}))
        actions = cast("list[Action]", list(rule.actions)) if found.actions is None else found.actions
        known = {key: value for key, value in found.parameters.items() if key in rule.parameters}
        rules[name] = Rule(
            enabled=found.enabled,
            actions=list(dict.fromkeys(actions)),
            parameters={**rule.parameters, **known},
            description=rule.description,
        )
    return rules


def names_an_evaluation(patterns: list[str], job_name: str | None) -> bool:
    """Whether a job of that name is an evaluation."""
    return job_name is not None and any(fnmatchcase(job_name.lower(), pattern.lower()) for pattern in patterns)


async def _lock(session: AsyncSession, model_id: UUID) -> None:
    """Have others who change the guard wait. It is the model's row: as long as nothing is set, the guard has none."""
    await session.execute(select(ModelRow.id).where(ModelRow.id == model_id).with_for_update())


def _check_rule(name: str, rule: RuleSettings) -> None:
    if name not in RULES:
        raise InvalidRequest(f"rules: there is no rule {name[:100]!r}; there are {', '.join(RULES)}")
    known = RULES[name].parameters
    for key, value in rule.parameters.items():
        if key not in known:
            has = ", ".join(known) or "none"
            raise InvalidRequest(f"rules.{name}.parameters: there is no {key[:100]!r}; this rule has {has}")
        if key in _COUNTS and not (value == int(value) and 1 <= value <= _MOST):
            raise InvalidRequest(f"rules.{name}.parameters.{key}: must be a whole number from 1 to {_MOST}")
        if value < 0:
            raise InvalidRequest(f"rules.{name}.parameters.{key}: must not be negative")
