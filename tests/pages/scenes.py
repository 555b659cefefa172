"""Trees of checkpoints as rows, without training them: for pages that must look right, and stay small, with many."""

from __future__ import annotations

import math
import random
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from store.tables import CheckpointRow, ModelRow

LORA = {"rank": 16, "alpha": 32, "init_seed": 0, "attn": True, "mlp": True, "unembed": False}


async def add_model(session: AsyncSession, team_id: uuid.UUID, base_id: uuid.UUID, slug: str) -> ModelRow:
    model = ModelRow(team_id=team_id, slug=slug, name=slug, base_id=base_id, forked_from_id=base_id, lora=LORA)
    session.add(model)
    await session.flush()
    return model


async def grow(
    session: AsyncSession,
    model: ModelRow,
    num_steps: int,
    *,
    start: CheckpointRow | None = None,
    reward: float = 0.15,
    seed: int = 0,
    age_s: float | None = None,
    **changes: Any,
) -> list[CheckpointRow]:
    """So many steps one after another, from `start` (None: the base weights); the last is the head."""
    rng, nodes = random.Random(seed), []
    began = datetime.now(UTC) - timedelta(seconds=age_s if age_s is not None else 20.0 * num_steps)
    parent = start
    for index in range(num_steps):
        reward += 0.7 * (0.95 - reward) / 12 + rng.gauss(0, 0.02)
        node = checkpoint(model, parent, min(1.0, reward), index, rng, began + timedelta(seconds=20 * index), changes)
        nodes.append(node)
        parent = node
    session.add_all(nodes)
    await session.flush()
    if nodes:
        model.head_checkpoint_id = nodes[-1].id
        model.head_version += num_steps
        await session.flush()
    return nodes


def checkpoint(
    model: ModelRow,
    parent: CheckpointRow | None,
    reward: float,
    index: int,
    rng: random.Random,
    at: datetime,
    changes: dict[str, Any],
) -> CheckpointRow:
    node_id, step = uuid.uuid4(), (parent.step if parent else 0) + 1
    files = {
        "adapter/adapter_config.json": {"size": 812, "sha256": "0" * 64},
        "adapter/adapter_model.safetensors": {"size": 5_300_000, "sha256": "1" * 64},
        "state/optimizer.safetensors": {"size": 10_600_000, "sha256": "2" * 64},
    }
    metrics = {
        "reward_mean": reward,
        "reward_std": max(0.02, 0.45 * (1 - reward)),
        "reward_min": 0.0,
        "reward_max": 1.0,
        "groups_without_spread": round(0.6 * reward, 3),
        "loss:sum": rng.gauss(-0.2, 0.1),
        "kl_sampling_trainer_k3:mean": abs(rng.gauss(0.002, 0.001)) * (1 + index / 60),
        "kl_sampling_trainer:mean": rng.gauss(0, 0.001),
        "entropy:mean": 1.4 * math.exp(-index / 60) + rng.gauss(0, 0.02) + 0.2,
        "ratio:mean": 1.0,
        "ratio:max": 1 + abs(rng.gauss(0.3, 0.2)),
        "clip_fraction:mean": abs(rng.gauss(0.04, 0.02)),
        "grad_norm": abs(rng.gauss(2.0, 0.5)),
        "update_norm": 0.02,
        "tokens:sum": 12_000,
        "tokens_per_s": rng.gauss(5_200, 250),
    }
    values = {
        "id": node_id, "model_id": model.id, "parent_id": parent.id if parent else None,
        "files_id": node_id, "files_model_id": model.id, "step": step, "name": f"{step:04d}-{node_id.hex[:8]}",
        "status": "committed", "guard_checked_at": at, "manifest": {"version": 1, "files": files}, "metrics": metrics,
        "num_traces": 64, "num_datums": 64, "num_tokens": 12_000, "mean_reward": reward, "learning_rate": 2e-5,
        "loss_fn": "importance_sampling", "created_at": at, "committed_at": at,
    }  # fmt: skip
    return CheckpointRow(**{**values, **changes})
