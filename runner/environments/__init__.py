"""Environments on this machine: built from what was deployed, started per session, kept apart from everything else."""

from __future__ import annotations

from runner.environments.base import BuildFailed, Environments, Log, Session, StartFailed

__all__ = ["BuildFailed", "Environments", "Log", "Session", "StartFailed"]
