"""Keys of agents: one for each team whose rollouts a runner holds.

A key is an HMAC over runner and team under the runner's own key, which every request of the runner brings along. So any
server process can say it again, it stays the same while the runner lives, and nobody keeps it. It works as long as its
row does: heartbeats prolong that, and it goes with its runner. A runner whose own key was replaced gets others; those
of before are prolonged as well while it holds rollouts of their team, for processes that run have them. What a key
opens is decided anew at each call (`server.hosted_rollouts.fencing`).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from server.auth.issuing import KEY_PREFIX, SHOWN_CHARACTERS
from server.auth.service import key_hash
from server.auth.spelling import plain_spelling
from server.principals.roles import AGENT, AGENT_SCOPES
from store.tables import ApiKeyRow, RunnerRow

LASTS_S = 120.0
"""From each time that it is prolonged, which is done when half of it is over."""
_PURPOSE = b"headway agent key 1\0"


@dataclass(frozen=True, slots=True)
class AgentKeys:
    """Those of the runner whose own key this is."""

    runner_key: str

    def of_team(self, runner_id: UUID, team_id: UUID) -> str:
        """The key itself."""
        message = _PURPOSE + runner_id.bytes + team_id.bytes
        code = hmac.digest(plain_spelling(self.runner_key).encode("utf-8", "replace"), message, hashlib.sha256)
        return KEY_PREFIX + base64.urlsafe_b64encode(code).decode().rstrip("=")

    async def of(self, session: AsyncSession, runner: RunnerRow, teams: Mapping[UUID, str]) -> dict[str, str]:
        """Keys by the ids of teams, good for a while."""
        keys = {team_id: self.of_team(runner.id, team_id) for team_id in teams}
        soon = func.clock_timestamp() + timedelta(seconds=LASTS_S / 2)
        living = select(ApiKeyRow.key_hash, ApiKeyRow.expires_at > soon).where(
            ApiKeyRow.runner_id == runner.id,
            ApiKeyRow.expires_at > func.clock_timestamp(),
            ApiKeyRow.team_id.in_(teams),
        )
        lasts = {row[0]: row[1] for row in await session.execute(living)} if keys else dict[bytes, bool]()
        for team_id, key in sorted(keys.items()):
            if not lasts.pop(key_hash(key), False):
                await _prolong(session, runner, team_id, key)
        if earlier := [hashed for hashed, is_fresh in lasts.items() if not is_fresh]:
            prolonged = update(ApiKeyRow).where(ApiKeyRow.key_hash.in_(earlier))
            await session.execute(prolonged.values(expires_at=func.clock_timestamp() + timedelta(seconds=LASTS_S)))
        return {str(team_id): key for team_id, key in keys.items()}


async def _prolong(session: AsyncSession, runner: RunnerRow, team_id: UUID, key: str) -> None:
    expires_at = func.clock_timestamp() + timedelta(seconds=LASTS_S)
    row = insert(ApiKeyRow).values(
        team_id=team_id,
        name=f"agents on {runner.host}",
        prefix=key[:SHOWN_CHARACTERS],
        key_hash=key_hash(key),
        role=AGENT,
        scopes=sorted(AGENT_SCOPES),
        runner_id=runner.id,
        expires_at=expires_at,
    )
    await session.execute(row.on_conflict_do_update(index_elements=["key_hash"], set_={"expires_at": expires_at}))
