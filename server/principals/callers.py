"""Who calls, and what that key allows. 401 for a key that opens nothing, 403 for one that does not open this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from server.principals.roles import MEANS, ROLES, Scope
from store.keys import KeyFacts
from wire.errors import Forbidden, Unauthenticated


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose key a request carries. `model_ids`: the only models that it opens; None: all that its team sees.
    `runner_id`: it opens the rollouts alone that this runner holds. `run_id`: no key, but this run calls."""

    team_id: UUID
    key_id: UUID
    team: str
    role: str
    scopes: frozenset[str]
    model_ids: frozenset[UUID] | None
    runner_id: UUID | None = None
    run_id: UUID | None = None

    @property
    def is_admin(self) -> bool:
        """Whether it may operate the service."""
        return "admin" in self.scopes

    def require(self, *scopes: Scope) -> None:
        """Raises Forbidden unless the key has one of these scopes."""
        if self.scopes.isdisjoint(scopes):
            raise self._refusal(scopes)

    def require_model(self, model_id: UUID, slug: str) -> None:
        """Raises Forbidden where the key is for other models."""
        if self.model_ids is not None and model_id not in self.model_ids:
            raise Forbidden(
                f"this key is not for {slug!r}: it opens {_count(len(self.model_ids), 'model')} of the team "
                f"{self.team!r} alone; {_who_gives(self.team)} can make one that opens more"
            )

    def require_whole_team(self, what: str) -> None:
        """Raises Forbidden for a key that is narrowed to some models."""
        if self.model_ids is not None:
            raise Forbidden(f"this key is for some models alone and cannot {what}; use one without such a list")

    def _refusal(self, scopes: Sequence[Scope]) -> Forbidden:
        has = ", ".join(scope for scope in MEANS if scope in self.scopes) or "none"
        able = ", ".join(role for role, allowed in ROLES.items() if not allowed.isdisjoint(scopes))
        giver = _who_gives(self.team) if "admin" not in scopes else "an operator ('headway keys create --role admin')"
        doing, needed = " or ".join(MEANS[scope] for scope in scopes), " or ".join(repr(scope) for scope in scopes)
        return Forbidden(
            f"this key (role {self.role}, scopes: {has}) may not {doing}: that needs the scope {needed}, "
            f"which these roles have: {able}; {giver} can make such a key"
        )


def admitted(key: KeyFacts | None) -> Caller:
    """The caller behind a key that was looked up.

    Raises Unauthenticated for one that is unknown, revoked or expired, Forbidden where its team is disabled.
    """
    if key is None:
        raise Unauthenticated("unknown API key; make one with 'headway keys create'")
    if key.is_revoked:
        raise Unauthenticated("this API key was revoked; make another with 'headway keys create'")
    if key.is_expired:
        raise Unauthenticated(f"this API key has expired; {_who_gives(key.team)} can make or rotate one")
    if key.team_is_disabled:
        raise Forbidden(f"the team {key.team!r} is disabled; an operator can enable it ('headway team enable')")
    models = None if key.model_ids is None else frozenset(key.model_ids)
    return Caller(key.team_id, key.key_id, key.team, key.role, frozenset(key.scopes), models, key.runner_id)


def _who_gives(team: str) -> str:
    return f"a team_admin of {team!r} or an operator ('headway keys create')"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
