"""What keys may do: scopes, and roles as named sets of them."""

from __future__ import annotations

from typing import Literal, get_args

Scope = Literal["read", "sample", "train", "keys", "admin"]
Role = Literal["viewer", "member", "team_admin", "admin"]

SCOPES: tuple[Scope, ...] = get_args(Scope)

ROLES: dict[Role, frozenset[Scope]] = {
    "viewer": frozenset({"read"}),
    "member": frozenset({"read", "sample", "train"}),
    "team_admin": frozenset({"read", "sample", "train", "keys"}),
    "admin": frozenset(SCOPES),
}
"""From the least to the most. `keys`: the team's keys; `admin`: the service, all teams."""

MEANS: dict[Scope, str] = {
    "read": "read",
    "sample": "sample",
    "train": "train or change models",
    "keys": "manage the team's keys",
    "admin": "operate the service",
}
"""What a scope allows, in the words of a refusal."""
