"""What no rollout that runs here may ask for: told from the request alone, before anything is looked up.

A submission is held against it, and each task of a run when the run is created: a run whose rollouts would be refused
one by one does not begin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.environments.runtime_config import check_runtime_config
from server.hosted_rollouts.agents import check_agent_config
from server.values.sanitizing import readable_value, refuse_deep
from wire.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Grading:
    """The task of a verifier."""

    environment: str
    task: str
    args: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CheckedSettings:
    """runtime_config: what of it was set. grading: None where the rollout's own environment grades."""

    runtime_config: dict[str, Any] | None
    grading: Grading | None


def check_settings(
    args: Mapping[str, Any],
    agent_config: Mapping[str, Any],
    verifier: Mapping[str, Any] | None,
    runtime_config: Mapping[str, Any] | None,
) -> CheckedSettings:
    """Raises InvalidRequest, naming the field, for what cannot be stored, run or graded here."""
    for name, value in (("args", args), ("agent_config", agent_config), ("verifier", verifier)):
        refuse_deep(value, name)
        if readable_value(value) != value:
            raise InvalidRequest(f"{name} has NUL characters, half characters or numbers that JSON has not", param=name)
    check_agent_config(agent_config)
    return CheckedSettings(check_runtime_config(runtime_config), _grading(verifier) if verifier is not None else None)


def _grading(verifier: Mapping[str, Any]) -> Grading:
    name, task, args = verifier.get("env"), verifier.get("id"), verifier.get("args", {})
    if not isinstance(name, str) or not isinstance(task, str) or not isinstance(args, dict):
        raise InvalidRequest("verifier is a task: give its env, its id and its args", param="verifier")
    if verifier.get("verifier") is not None:
        raise InvalidRequest("a verifier has no verifier of its own; leave verifier.verifier out", param="verifier")
    check_runtime_config(verifier.get("runtime_config"))
    return Grading(name, task, args)
