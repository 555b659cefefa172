"""What follows from a run's settings alone: learning rates, the order of tasks, seeds, ids."""

from __future__ import annotations

import math
import random
import uuid
from hashlib import blake2b
from uuid import UUID

from server.runs.settings import RunConfig

_SEED_BITS = 63


def learning_rate(config: RunConfig, step: int) -> float:
    """Of step 1, 2 …: it grows linearly over the first `warmup_steps`, then follows the schedule to the last step."""
    if step <= config.warmup_steps:
        return config.learning_rate * step / (config.warmup_steps + 1)
    left = config.steps - config.warmup_steps
    progress = (step - 1 - config.warmup_steps) / left if left else 0.0
    match config.lr_schedule:
        case "constant":
            return config.learning_rate
        case "linear":
            return config.learning_rate * (1 - progress)
        case "cosine":
            return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def tasks_in_turn(seed: int, num_tasks: int, first: int, count: int) -> list[int]:
    """Places first … first + count − 1 of endless epochs, each of which has every task once, shuffled."""
    orders = dict[int, list[int]]()
    chosen = list[int]()
    for place in range(first, first + count):
        epoch, index = divmod(place, num_tasks)
        if epoch not in orders:
            orders[epoch] = random.Random(f"{seed}/{epoch}").sample(range(num_tasks), num_tasks)  # noqa: S311
        chosen.append(orders[epoch][index])
    return chosen


def rollout_seed(seed: int, step: int, purpose: str, position: int, draw: int) -> int:
    """What the sampler draws by. It is the same for a rollout that a death interrupted, so that the same tokens come;
    `draw` counts tries that ended by themselves."""
    said = f"{seed}/{step}/{purpose}/{position}/{draw}".encode()
    return int.from_bytes(blake2b(said, digest_size=8).digest()) >> (64 - _SEED_BITS)


def trace_id(run_id: UUID, generation: int, step: int, purpose: str, position: int, number: int) -> UUID:
    """Of a rollout's try: whoever submits it a second time submits the same."""
    return uuid.uuid5(run_id, f"{generation}/{step}/{purpose}/{position}/{number}")


def group_id(run_id: UUID, generation: int, step: int, purpose: str, group: int) -> UUID:
    """Of the rollouts of one task in one step."""
    return uuid.uuid5(run_id, f"{generation}/{step}/{purpose}/group/{group}")


def held_out_job(run_id: UUID, generation: int, step: int) -> UUID:
    """Of one evaluation."""
    return uuid.uuid5(run_id, f"{generation}/{step}/held_out")


def is_evaluated_after(every: int, steps: int, step: int) -> bool:
    """Before the first step (0), after every n-th, and after the last."""
    return step % every == 0 or step >= steps
