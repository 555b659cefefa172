"""What servers and runners say to each other: who a runner is, what it is to carry out, and how that went.

A runner speaks HTTP to the server with a key of the role `runner`; the routes are in `server/protocols/runner/`.
Whatever it says of a placement carries the attempt that it holds: a report of an attempt that has been given to
another runner is refused with 409 (`PlacementLost`).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from wire.bounded import FEW_ENTRIES

Kind = Literal["build", "session", "rollout"]
Outcome = Literal["completed", "failed", "cancelled", "handed_back"]
"""`handed_back`: the runner has to go, or could not start it for a reason of its own; another attempt, at once."""
Label = Annotated[str, Field(min_length=1, max_length=64)]
_ADDRESS = re.compile(r"wss?://[!-~]+")


def tunnel_url(url: str) -> str:
    """The URL of a runner, which servers call. Raises ValueError for what is none."""
    try:
        parts = urlsplit(url)
        is_one = _ADDRESS.fullmatch(url) and parts.hostname and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one or "@" in url or "?" in url or "#" in url:
        raise ValueError("a runner's url is ws://HOST:PORT, or wss://HOST:PORT with TLS")
    return url


TunnelUrl = Annotated[str, Field(max_length=2048), AfterValidator(tunnel_url)]
TunnelToken = Annotated[str, Field(min_length=32, max_length=256, pattern=r"\A[!-~]+\z")]
"""It stands in a header."""

HEARTBEAT_S = 3.0
LOST_AFTER_S = 15.0
"""A runner without a heartbeat for so long is dead: what it held is given to others."""


class Said(BaseModel):
    """Base of all of them."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Registration(Said):
    """POST /runner/register: a process that will take placements. `labels`: what it has, as `gpu` or `big`. `url`,
    `tunnel_token`: where servers reach it with tunnels (`ws://…`), and the bearer that they show there."""

    host: str = Field(max_length=255)
    pid: int = Field(ge=0, lt=2**31)
    slots: int = Field(ge=1, le=65536)
    labels: list[Label] = Field(default=[], max_length=64, fail_fast=True)
    kinds: list[Kind] = Field(default=["build", "session", "rollout"], min_length=1, max_length=3, fail_fast=True)
    team: str | None = None
    """It takes this team's work alone."""
    isolation: str = Field(max_length=64)
    url: TunnelUrl | None = None
    tunnel_token: TunnelToken | None = None
    versions: Annotated[dict[str, str], FEW_ENTRIES] = {}


class Registered(Said):
    """Its id, and what it shall keep to."""

    runner_id: UUID
    heartbeat_s: float = HEARTBEAT_S
    lost_after_s: float = LOST_AFTER_S


class Held(Said):
    """A placement that a runner holds."""

    placement_id: UUID
    attempt: int = Field(ge=1, lt=2**31)


class Heartbeat(Said):
    """POST /runner/{id}/heartbeat: all that it holds, and whether it can work."""

    held: list[Held] = Field(default=[], fail_fast=True)
    trouble: str | None = Field(default=None, max_length=2000)


class Beat(Said):
    """`stop`: of what it holds, what it shall stop: cancelled, or given to others. `drain`: take nothing new.
    `keys`: of the agents of each team whose rollouts it holds, renewed before they expire."""

    stop: list[UUID] = []
    drain: bool = False
    keys: dict[str, str] = {}


class LeaseRequest(Said):
    """POST /runner/{id}/lease: up to `slots` placements; waits up to `wait_s` for the first."""

    slots: int = Field(ge=1, le=65536)
    kinds: list[Kind] = Field(default=["build", "session", "rollout"], min_length=1, max_length=3, fail_fast=True)
    wait_s: float = Field(default=0, ge=0, le=30)


class EnvironmentSpec(Said):
    """A version of an environment. Its archive is at GET /runner/{id}/builds/{build_id}/archive: a gzip tar whose
    SHA-256 is `archive_digest`. `source` `builtin`: code that comes with the runner, named by `name`; `image`: a
    container image."""

    build_id: UUID
    name: str
    declared_name: str
    version: int
    source: Literal["upload", "folder", "image", "builtin"]
    archive_digest: str | None = None
    archive_bytes: int | None = None
    image: str | None = None
    variables: dict[str, str] = {}
    runtime_config: dict[str, Any] | None = None
    no_cache: bool = False
    build_args: dict[str, str] = {}
    build_secrets: dict[str, str] = {}
    """Of a build alone."""


class AgentSpec(Said):
    """An agent as the SDK dumps it: it is made again by the SDK itself."""

    type: str
    config: dict[str, Any]


class RolloutSpec(Said):
    """A whole rollout. Ids are dashed. `key`: what the agent samples and reports with."""

    trace_id: UUID
    job_id: UUID
    group_id: str | None = None
    parent_trace_id: str | None = None
    task: str
    slug: str | None = None
    args: dict[str, Any] = {}
    agent: AgentSpec
    verifier: dict[str, Any] | None = None
    verifier_environment: EnvironmentSpec | None = None


class Placement(Said):
    """One thing to carry out. `team`: whose it is, for whatever must be kept apart; "" for everybody's builds."""

    placement_id: UUID
    kind: Kind
    attempt: int
    team: str
    timeout_s: float
    environment: EnvironmentSpec
    rollout: RolloutSpec | None = None
    key: str | None = None
    """Of this team's agents on this runner: it opens the rollouts that the runner holds, for sampling and reports."""


class Leased(Said):
    """What it got; nothing if nothing came in time."""

    placements: list[Placement] = []


class Ready(Said):
    """POST /runner/{id}/placements/{placement_id}/ready: its environment answers."""

    attempt: int = Field(ge=1, lt=2**31)


class LogLines(Said):
    """POST /runner/{id}/placements/{placement_id}/log: lines of a build. `first`: number of the first line, from 0:
    lines that are there are not written again."""

    attempt: int = Field(ge=1, lt=2**31)
    first: int = Field(ge=0, lt=2**31)
    lines: list[str] = Field(max_length=1000, fail_fast=True)


class End(Said):
    """POST /runner/{id}/placements/{placement_id}/end: it is over, and all that it reported has arrived. `error`: one
    sentence. `manifest`: of a build that completed."""

    attempt: int = Field(ge=1, lt=2**31)
    outcome: Outcome
    error: str | None = Field(default=None, max_length=10_000)
    manifest: dict[str, Any] | None = None


class Ended(Said):
    """The same for a repeated call."""

    state: str
    outcome: str | None = None
