"""Hyperparameters of a job as settings of a run. What is `auto` is the run's own default."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from server.fine_tuning.requests import Effort, ReinforcementHyperparameters, SupervisedHyperparameters
from server.runs.settings import RunConfig
from server.values.validation_messages import first_problem
from wire.errors import InvalidRequest

_AUTO_BATCH = 32
_AUTO_EPOCHS = 3
_EFFORT: dict[Effort, float] = {"default": 1, "low": 0.5, "medium": 1, "high": 2}
_MOST_STEPS = 10_000


def reinforcement_config(
    asked: ReinforcementHyperparameters, num_tasks: int, seed: int, context_length: int | None, defaults: RunConfig
) -> RunConfig:
    """`context_length`: of the base; an answer may take half of it. Raises InvalidRequest for more steps, tasks or
    rollouts than a run may have."""
    batch = _batch(asked, num_tasks, defaults)
    max_tokens = answer_tokens(asked.reasoning_effort, context_length, defaults)
    said: dict[str, Any] = {"tasks_per_step": batch, "seed": seed, "max_tokens": max_tokens}
    said |= _steps(asked, num_tasks, batch)
    if asked.learning_rate_multiplier != "auto":
        said["learning_rate"] = defaults.learning_rate * asked.learning_rate_multiplier
    if asked.compute_multiplier != "auto":
        said["group_size"] = max(2, round(defaults.group_size * asked.compute_multiplier))
    return _config(said)


def supervised_config(
    asked: SupervisedHyperparameters, num_examples: int, seed: int, context_length: int | None, defaults: RunConfig
) -> RunConfig:
    """As `reinforcement_config`, for examples: without rollouts, and without what decides about them."""
    batch = _batch(asked, num_examples, defaults)
    if asked.n_epochs == "auto":
        asked = asked.model_copy(update={"n_epochs": _AUTO_EPOCHS})
    said: dict[str, Any] = {"method": "supervised", "loss_fn": "cross_entropy", "loss_fn_config": None}
    said |= {"tasks_per_step": batch, "seed": seed, **_steps(asked, num_examples, batch)}
    said["max_tokens"] = answer_tokens("default", context_length, defaults)
    if asked.learning_rate_multiplier != "auto":
        said["learning_rate"] = defaults.learning_rate * asked.learning_rate_multiplier
    return _config(said)


def _config(said: dict[str, Any]) -> RunConfig:
    try:
        return RunConfig.model_validate(said)
    except ValidationError as error:
        raise InvalidRequest(f"hyperparameters: as a run, {first_problem(error.errors(include_url=False))}") from None


def answer_tokens(effort: Effort, context_length: int | None, defaults: RunConfig) -> int:
    """How long an answer may be: never more than half of the context."""
    wanted = int(defaults.max_tokens * _EFFORT[effort])
    return max(1, min(wanted, context_length // 2)) if context_length else wanted


def _batch(asked: SupervisedHyperparameters, num_lines: int, defaults: RunConfig) -> int:
    if asked.batch_size == "auto":
        return min(num_lines, defaults.tasks_per_step or _AUTO_BATCH)
    if asked.batch_size > num_lines:
        raise InvalidRequest(f"batch_size is {asked.batch_size}, but training_file has {num_lines} lines")
    return asked.batch_size


def _steps(asked: SupervisedHyperparameters, num_lines: int, batch: int) -> dict[str, int]:
    """An epoch is as many steps as it takes to see every line once."""
    if asked.n_epochs == "auto":
        return {}
    steps = asked.n_epochs * -(-num_lines // batch)
    if steps > _MOST_STEPS:
        raise InvalidRequest(
            f"n_epochs is {asked.n_epochs}, which is {steps} steps; at most {_MOST_STEPS} are possible: use a larger "
            "batch_size"
        )
    return {"steps": steps}
