"""Twenty steps of training on a tiny float64 model: the same data, seeds and hyperparameters each time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import numpy as np
import torch

from tests.unit.trainer.tiny import LORA, MODEL, VOCAB, BatchEngine, rollout, tiny_model
from trainer.engine.base_model import BaseModel
from trainer.engine.engine import EngineSettings
from wire.engine import AdamParams, LossChoice
from wire.trajectories import Batch, Trajectory, Turn

NUM_STEPS = 20
ADAM = AdamParams(learning_rate=2e-2, weight_decay=0.01)
Reorder = Callable[[Batch], Batch]


@dataclass(frozen=True)
class Curve:
    """One value a step: C, the 2-norm of its gradient, and the mean of q − π."""

    loss: list[float]
    grad_norm: list[float]
    kl: list[float]


def new_engine(max_tokens_per_pass: int = 4096, **settings: int) -> BatchEngine:
    base = BaseModel(tiny_model(dtype=torch.float64))
    return BatchEngine(base, EngineSettings(max_tokens_per_pass=max_tokens_per_pass, threads=1, **settings))


def train(
    engine: BatchEngine,
    loss: str,
    model: UUID = MODEL,
    *,
    reorder: Reorder = lambda batch: batch,
    between: Callable[[int], None] = lambda step: None,
) -> Curve:
    """One pass a step; what is trained on depends on the step and on the policy. between: runs before each step."""
    engine.open(model, LORA, None, None)
    curve = Curve([], [], [])
    for step in range(NUM_STEPS):
        between(step)
        batch = reorder(sampled(engine, model, step))
        passed = engine.forward_backward(model, batch, LossChoice(loss)).metrics
        stepped = engine.optim_step(model, ADAM).metrics
        curve.loss.append(passed["loss:sum"])
        curve.kl.append(passed["kl_sampling_trainer:mean"])
        curve.grad_norm.append(stepped["grad_norm"])
    return curve


def sampled(engine: BatchEngine, model: UUID, step: int) -> Batch:
    """Two groups of four, rewarded for even tokens, as if sampled by a policy near the model's own."""
    rng = np.random.default_rng(step)
    trajectories = []
    for _ in range(2):
        prompt = rng.integers(0, VOCAB, 12).tolist()
        for index in range(4):
            drawn = rollout(rng, prompt, num_turns=index % 3 + 1, reward=0.0)
            outputs = np.concatenate([turn.output_ids for turn in drawn.turns])
            trajectories.append(replace(drawn, reward=float(np.mean(outputs % 2 == 0))))
    batch = Batch(trajectories, group_size=4)
    found = engine.forward(model, batch)
    # Sampled under a policy that is now 0.1 nats off here, 0.5 there: inside and outside every clipping range.
    drift = rng.choice([-0.5, -0.1, 0.0, 0.1, 0.5], sum(len(t.turns) * 4 for t in trajectories))
    return replace(batch, trajectories=_with_logprobs(trajectories, [d.logprobs[d.mask == 1] for d in found], drift))


def _with_logprobs(
    trajectories: Sequence[Trajectory], logprobs: Sequence[np.ndarray], drift: np.ndarray
) -> list[Trajectory]:
    replaced, steps = [], iter(drift.tolist())
    for trajectory, row in zip(trajectories, logprobs, strict=True):
        values = iter(row.tolist())
        turns: list[Turn] = []
        for turn in trajectory.turns:
            moved = [next(values) + next(steps) for _ in turn.output_ids]
            turns.append(replace(turn, sampling_logprobs=np.array(moved, np.float32)))
        replaced.append(replace(trajectory, turns=tuple(turns)))
    return replaced
