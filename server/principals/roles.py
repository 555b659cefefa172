"""What keys may do: scopes, and roles as named sets of them."""

from __future__ import annotations

from typing import Literal, get_args

Scope = Literal["read", "sample", "train", "deploy", "keys", "runner", "admin"]
Role = Literal["viewer", "member", "team_admin", "admin", "runner"]

SCOPES: tuple[Scope, ...] = get_args(Scope)

ROLES: dict[Role, frozenset[Scope]] = {
    "viewer": frozenset({"read"}),
    "member": frozenset({"read", "sample", "train", "deploy"}),
    "team_admin": frozenset({"read", "sample", "train", "deploy", "keys"}),
    "admin": frozenset(SCOPES),
    "runner": frozenset({"runner"}),
}
"""From the least to the most, then that of runners. `deploy`: code that runs on runners; `keys`: the team's keys;
`runner`: take the work of all teams; `admin`: the service, all teams."""

AGENT = "agent"
AGENT_SCOPES: frozenset[Scope] = frozenset({"sample"})
"""What servers issue to runners, and nobody else gets: it samples and reports for the rollouts of one team that one
runner holds."""

MEANS: dict[Scope, str] = {
    "read": "read",
    "sample": "sample",
    "train": "train or change models",
    "deploy": "deploy environments",
    "keys": "manage the team's keys",
    "runner": "be a runner",
    "admin": "operate the service",
}
"""What a scope allows, in the words of a refusal."""
