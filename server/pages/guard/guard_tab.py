"""`/models/<id>?tab=guard`: the rules of a model, what of them is set, and what they found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from sqlalchemy.ext.asyncio import AsyncSession

from server.guard import settings
from server.guard.alarms import list_alarms
from server.guard.rules import RULES
from server.guard.types import Action, Guard, GuardRequest, Rule
from server.pages.shared.sessions import Visitor
from store.tables import ModelRow

_ALARMS = 20

ACTIONS: dict[Action, str] = {
    "webhook": "call the webhook",
    "pause": "pause training",
    "rollback": "roll the head back to the best held-out checkpoint; without one, pause training",
}
"""What an action does."""
assert set(ACTIONS) == set(get_args(Action))


@dataclass(frozen=True, slots=True)
class Threshold:
    """A parameter of a rule. `is_set`: it differs from its default."""

    name: str
    value: float
    default: float

    @property
    def is_set(self) -> bool:
        """Whether somebody chose it."""
        return self.value != self.default

    @property
    def text(self) -> str:
        """As a field holds it."""
        return _text(self.value)

    @property
    def default_text(self) -> str:
        """What stands there unless somebody chooses."""
        return _text(self.default)


@dataclass(frozen=True, slots=True)
class SeenRule:
    """A rule as a person reads it. `sets`: whether anything about it is set."""

    name: str
    rule: Rule
    thresholds: Sequence[Threshold]
    default_actions: Sequence[str]
    sets: bool


async def guard_tab(session: AsyncSession, visitor: Visitor, model: ModelRow, cursor: str | None) -> dict[str, Any]:
    """What the tab shows. Raises InvalidRequest for a cursor that is none."""
    guard = await settings.read_guard(session, model.id)
    was = await settings.read_set(session, model.id)
    found = await list_alarms(session, model.id, only_open=False, cursor=cursor, limit=_ALARMS)
    return {
        "rules": seen_rules(guard, was),
        "guard": settings.shown_to(visitor.caller, guard),
        "has_webhook": guard.webhook_url is not None,
        "sets_eval_jobs": was.eval_jobs is not None,
        "history": found.items,
        "older": found.next_cursor,
        "cursor": cursor,
    }


def seen_rules(guard: Guard, was: GuardRequest) -> list[SeenRule]:
    """Every rule, in the order in which they are looked at."""
    return [
        SeenRule(
            name,
            rule,
            [Threshold(key, value, RULES[name].parameters[key]) for key, value in rule.parameters.items()],
            RULES[name].actions,
            name in was.rules and bool(was.rules[name].model_dump(exclude_defaults=True)),
        )
        for name, rule in guard.rules.items()
    ]


def _text(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(value)
