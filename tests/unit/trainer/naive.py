"""The reference: PEFT and transformers as they come, one unpadded row a turn, full logits, loss formulas by the letter.

Shares nothing with the engine but the checkpoint files it reads its adapter from.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from tests.unit.trainer.tiny import MODEL
from trainer.engine.engine import TrainingEngine
from wire.extension import Media
from wire.trajectories import Batch, Trajectory, Turn

Formula = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
Beside = Callable[[Turn], Mapping[str, Any]]
"""What a model's forward takes of a turn beside its ids."""


def _ppo(p: torch.Tensor, q: torch.Tensor, a: float) -> torch.Tensor:
    ratio = torch.exp(p - q)
    return -torch.min(ratio * a, torch.clip(ratio, 0.8, 1.2) * a)


def _cispo(p: torch.Tensor, q: torch.Tensor, a: float) -> torch.Tensor:
    return -torch.clip(torch.exp(p - q), 0.0, 4.0).detach() * a * p


def _gspo(p: torch.Tensor, q: torch.Tensor, a: float) -> torch.Tensor:
    """The sequence-level form, nothing detached, once for each token of the sequence."""
    ratio = torch.exp((p - q).mean())
    return -torch.min(ratio * a, torch.clip(ratio, 1 - 3e-4, 1 + 4e-4) * a).expand(len(p))


# Of the logprobs p and sampling logprobs q of one sequence's action tokens, and its advantage.
FORMULAS: dict[str, Formula] = {
    "cross_entropy": lambda p, q, a: -p,
    "importance_sampling": lambda p, q, a: -torch.exp(p - q) * a,
    "ppo": _ppo,
    "cispo": _cispo,
    "dro": lambda p, q, a: -(a * p - 0.5 * 0.05 * (p - q) ** 2),
    "gspo": _gspo,
    "dr_grpo": _ppo,
    "truncated_importance_sampling": lambda p, q, a: -torch.clip(torch.exp(p - q), max=2.0).detach() * a * p,
}


@dataclass
class Reference:
    """The logprobs of a batch under a policy, with their graph, from which any number of losses have gradients."""

    policy: PeftModel
    batch: Batch
    beside: Beside

    @cached_property
    def logprobs(self) -> list[list[torch.Tensor]]:
        """Of the action tokens of each trajectory's sequences."""
        return [[self._of(turns) for turns in sequences(each)] for each in self.batch.trajectories]

    @cached_property
    def base_logprobs(self) -> list[list[torch.Tensor]]:
        with torch.no_grad(), self.policy.disable_adapter():
            return [[self._of(turns) for turns in sequences(each)] for each in self.batch.trajectories]

    def gradient(self, loss: str, options: Mapping[str, float] | None = None) -> tuple[float, dict[str, torch.Tensor]]:
        """C and its gradient per LoRA tensor."""
        costs = self._costs_per_sequence(loss, options or {})
        total = torch.cat(costs).sum()
        if options and options.get("normalize_by_tokens"):
            total = torch.cat(costs).mean()
        if options and options.get("normalize_by_sequences"):
            total = torch.stack([c.mean() for c in costs]).mean()
        self.policy.zero_grad(set_to_none=True)
        total.backward(retain_graph=True)
        named = self.policy.named_parameters()
        return total.item(), {name.replace(".default.", "."): p.grad for name, p in named if p.requires_grad}

    def _costs_per_sequence(self, loss: str, options: Mapping[str, float]) -> list[torch.Tensor]:
        costs = []
        for at, advantage in enumerate(naive_advantages(self.batch, options)):
            for number, turns in enumerate(sequences(self.batch.trajectories[at])):
                p = self.logprobs[at][number]
                q = torch.cat([torch.from_numpy(turn.sampling_logprobs) for turn in turns]).to(p.dtype)
                cost = FORMULAS[loss](p, q, advantage)
                if beta := options.get("kl_penalty_coef"):
                    b = self.base_logprobs[at][number]
                    cost = cost + beta * (torch.exp(b - p) - (b - p) - 1)
                costs.append(cost)
        return costs

    def _of(self, turns: list[Turn]) -> torch.Tensor:
        return torch.cat([turn_logprobs(self.policy, turn, self.beside) for turn in turns])


def naive_pass(
    base: PreTrainedModel,
    engine: TrainingEngine,
    batch: Batch,
    loss: str,
    folder: Path,
    model: UUID = MODEL,
    options: Mapping[str, float] | None = None,
    beside: Beside = lambda _: {},
) -> tuple[float, dict[str, torch.Tensor]]:
    """C and its gradient per LoRA tensor, for the adapter that the engine holds."""
    return Reference(saved_policy(base, engine, folder, model), batch, beside).gradient(loss, options)


def sequences(trajectory: Trajectory) -> list[list[Turn]]:
    """Runs of turns whose prompts extend one another."""
    runs: list[list[Turn]] = []
    seen: list[int] = []
    media: list[Media] = []
    for turn in trajectory.turns:
        prompt, before = turn.prompt_ids.tolist(), [item for item in turn.media if item.start < len(seen)]
        if not seen or prompt[: len(seen)] != seen or before != media:
            runs.append([])
        runs[-1].append(turn)
        seen, media = prompt + turn.output_ids.tolist(), list(turn.media)
    return runs


def saved_policy(base: PreTrainedModel, engine: TrainingEngine, folder: Path, model: UUID = MODEL) -> PeftModel:
    adapter, state = folder / "adapter", folder / "state"
    adapter.mkdir(parents=True)
    state.mkdir()
    engine.snapshot(model).write(adapter, state)
    return PeftModel.from_pretrained(base, adapter, is_trainable=True, autocast_adapter_dtype=False)


def turn_logprobs(policy: torch.nn.Module, turn: Turn, beside: Beside = lambda _: {}) -> torch.Tensor:
    ids = torch.tensor([[*turn.prompt_ids.tolist(), *turn.output_ids.tolist()]])
    logprobs = torch.log_softmax(policy(input_ids=ids, **beside(turn)).logits[0], dim=-1)
    start = len(turn.prompt_ids)
    return torch.stack([logprobs[start + i - 1, token] for i, token in enumerate(turn.output_ids.tolist())])


def naive_advantages(batch: Batch, options: Mapping[str, float] | None = None) -> list[float]:
    size = batch.group_size or len(batch.trajectories)
    rewards = [t.reward for t in batch.trajectories]
    groups = [rewards[i // size * size :][:size] for i in range(len(rewards))]
    advantages = [batch.reward_scale * (r - statistics.fmean(g)) for r, g in zip(rewards, groups, strict=True)]
    if not (options and options.get("advantage_std")):
        return advantages
    return [a / (statistics.stdev(g) + 1e-4) for a, g in zip(advantages, groups, strict=True)]


def worst_relative_error(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Over LoRA tensors, in the 2-norm."""
    assert found.keys() == expected.keys()
    return max(((found[n] - expected[n]).norm() / expected[n].norm()).item() for n in expected)
