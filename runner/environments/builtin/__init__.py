"""Environments that come with runners. They are started and isolated as deployed ones are, and have no archive."""

from __future__ import annotations

from wire.graders.tasks import GRADED_ENVIRONMENT

BUILTIN = {GRADED_ENVIRONMENT: "runner.environments.builtin.graded"}
"""By name: the module whose `env` is served."""
