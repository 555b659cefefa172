"""The taskset: every number once. `hud sync tasks NAME` finds it."""

from __future__ import annotations

from env import find
from game import HIGHEST, LOWEST

tasks = [find(secret=secret) for secret in range(LOWEST, HIGHEST + 1)]
