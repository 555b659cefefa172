"""The reference: PEFT and transformers as they come, one unpadded row a turn, full logits, loss formulas by the letter.

Shares nothing with the engine but the checkpoint files it reads its adapter from.
"""

# N output tokens of one turn

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from tests.unit.trainer.tiny import MODEL
from trainer.engine import TrainingEngine
from wire.trajectories import Batch, Turn

Formula = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


def _ppo(p: torch.Tensor, q: torch.Tensor, a: float) -> torch.Tensor:
    ratio = torch.exp(p - q)
    return -torch.min(ratio * a, torch.clip(ratio, 0.8, 1.2) * a)


def _cispo(p: torch.Tensor, q: torch.Tensor, a: float) -> torch.Tensor:
    return -torch.clip(torch.exp(p - q), 0.0, 4.0).detach() * a * p


FORMULAS: dict[str, Formula] = {
    "cross_entropy": lambda p, q, a: -p,
    "importance_sampling": lambda p, q, a: -torch.exp(p - q) * a,
    "ppo": _ppo,
    "cispo": _cispo,
    "dro": lambda p, q, a: -(a * p - 0.5 * 0.05 * (p - q) ** 2),
}


def naive_pass(
    base: PreTrainedModel, engine: TrainingEngine, batch: Batch, loss: str, folder: Path, model: UUID = MODEL
) -> tuple[float, dict[str, torch.Tensor]]:
    """C and its gradient per LoRA tensor, for the adapter that the engine holds."""
    policy = saved_policy(base, engine, folder, model)
    total = torch.zeros((), dtype=base.dtype)
    for trajectory, advantage in zip(batch.trajectories, naive_advantages(batch), strict=True):
        for turn in trajectory.turns:
            sampling = torch.from_numpy(turn.sampling_logprobs).to(base.dtype)
            total = total + FORMULAS[loss](turn_logprobs(policy, turn), sampling, advantage).sum()
    total.backward()
    named = {name.replace(".default.", "."): p.grad for name, p in policy.named_parameters() if p.requires_grad}
    return total.item(), named


def saved_policy(base: PreTrainedModel, engine: TrainingEngine, folder: Path, model: UUID = MODEL) -> PeftModel:
    adapter, state = folder / "adapter", folder / "state"
    adapter.mkdir(parents=True)
    state.mkdir()
    engine.save(model, adapter, state)
    return PeftModel.from_pretrained(base, adapter, is_trainable=True, autocast_adapter_dtype=False)


def turn_logprobs(policy: torch.nn.Module, turn: Turn) -> torch.Tensor:
    ids = torch.tensor([[*turn.prompt_ids.tolist(), *turn.output_ids.tolist()]])
    logprobs = torch.log_softmax(policy(input_ids=ids).logits[0], dim=-1)
    start = len(turn.prompt_ids)
    return torch.stack([logprobs[start + i - 1, token] for i, token in enumerate(turn.output_ids.tolist())])


def naive_advantages(batch: Batch) -> list[float]:
    size = batch.group_size or len(batch.trajectories)
    rewards = [t.reward for t in batch.trajectories]
    return [
        batch.reward_scale * (r - statistics.fmean(rewards[i // size * size :][:size])) for i, r in enumerate(rewards)
    ]


def worst_relative_error(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Over LoRA tensors, in the 2-norm."""
    assert found.keys() == expected.keys()
    return max(((found[n] - expected[n]).norm() / expected[n].norm()).item() for n in expected)
