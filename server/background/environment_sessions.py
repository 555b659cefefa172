"""Says which sessions of environments have tunnels in this process, and ends those that are over."""

from __future__ import annotations

from server.environments.tunnels import SEEN_EVERY_S, Tunnels
from store.repeating import RepeatedTask, Rhythm


def keeping_sessions(tunnels: Tunnels) -> RepeatedTask:
    """Every few seconds."""
    return RepeatedTask(tunnels.keep_up, Rhythm(SEEN_EVERY_S, failed="sessions_not_kept_up"))
