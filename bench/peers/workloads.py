"""The batches of the race, as rows that every contender gets: tokens, which of them were sampled, advantages.

Turns that extend one another are one row, as the recipes of the Tinker SDK make them. Sampling logprobs lie a step
away from the base's own, inside and outside PPO's clipping range, so that a contender that scores a token otherwise has
another loss.
"""

# T tokens of a row

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from bench.batches import Shape, random_batch
from bench.rows import Row, merged_rows, ppo_cost


@dataclass(frozen=True, slots=True)
class Workload:
    """steps: forward_backward and optim_step so many times a round. pipelined: both calls are sent before either
    answer is read. models: each trains on a batch of its own, all at once."""

    shape: Shape
    steps: int = 1
    pipelined: bool = False
    models: int = 1


_EIGHT_TOKENS = Shape(1, 2, 1, prompt=(2, 3), output=(2, 3))
WORKLOADS: Mapping[str, Workload] = {
    "shared": Workload(Shape(4, 8, 1, prompt=(192, 257), output=(32, 65))),
    "flat": Workload(Shape(4, 4, 1, prompt=(80, 113), output=(32, 65), shared_prompt=False)),
    "multi-turn": Workload(Shape(2, 4, 4, prompt=(96, 129), output=(24, 49), observation=(16, 33))),
    "long": Workload(Shape(1, 1, 1, prompt=(6144, 6145), output=(2048, 2049))),
    "8 tokens": Workload(_EIGHT_TOKENS, steps=10),
    "8 tokens, pipelined": Workload(_EIGHT_TOKENS, steps=10, pipelined=True),
    "8 models": Workload(_EIGHT_TOKENS, steps=2, pipelined=True, models=8),
    "32 models": Workload(_EIGHT_TOKENS, pipelined=True, models=32),
}


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """A batch, and the base's own logprobs: of each row's tokens but the first, nats, float32."""

    rows: list[Row]
    base_logprobs: list[torch.Tensor]

    @property
    def num_tokens(self) -> int:
        """That are predicted, padding and sharing apart."""
        return sum(len(row.ids_T) - 1 for row in self.rows)

    def loss(self, logprobs: Sequence[torch.Tensor]) -> float:
        """PPO's clipped cost under these logprobs of each row's tokens but the first."""
        return sum(
            float(ppo_cost(found_T[at_T], row.sampling_logprobs_T[1:][at_T], row.advantages_T[1:][at_T]))
            for row, found_T in zip(self.rows, logprobs, strict=True)
            for at_T in [row.is_action_T[1:]]
        )

    def save(self, path: Path) -> None:
        """As JSON, which interpreters without torch read."""
        path.write_text(json.dumps([_fields(row) for row in self.rows]))


def make_rows(base: PreTrainedModel, shape: Shape, seed: int = 0) -> Rows:
    """Rewards are standard normal, less their group's mean; a trajectory that is a group by itself has advantage 1."""
    rows = merged_rows(random_batch(shape, base.config.get_text_config().vocab_size, seed), torch.device("cpu"))
    if shape.group_size == 1:
        rows = [replace(row, advantages_T=row.is_action_T.float()) for row in rows]
    rng = np.random.default_rng(seed)
    logprobs = [token_logprobs(base, row.ids_T) for row in rows]
    return Rows([_near(*pair, rng) for pair in zip(rows, logprobs, strict=True)], logprobs)


def load_rows(path: Path) -> list[Row]:
    """What `Rows.save` wrote."""
    return [_row(fields) for fields in json.loads(path.read_text())]


@torch.no_grad()
def token_logprobs(base: PreTrainedModel, ids_T: torch.Tensor) -> torch.Tensor:
    """Nats of each token but the first, float32."""
    logits_TV = base(input_ids=ids_T[None, :-1], use_cache=False).logits[0].float()
    return logits_TV.log_softmax(-1).gather(-1, ids_T[1:, None])[:, 0]


def _near(row: Row, logprobs_T: torch.Tensor, rng: np.random.Generator) -> Row:
    steps_T = torch.from_numpy(rng.choice([-0.5, -0.1, 0.0, 0.1, 0.5], len(logprobs_T)).astype(np.float32))
    near_T = torch.cat([torch.zeros(1), logprobs_T + steps_T])
    return replace(row, sampling_logprobs_T=torch.where(row.is_action_T, near_T, 0.0))


def _fields(row: Row) -> dict[str, Any]:
    return {
        "ids": row.ids_T.tolist(),
        "is_action": row.is_action_T.tolist(),
        "sampling_logprobs": row.sampling_logprobs_T.tolist(),
        "advantages": row.advantages_T.tolist(),
        "num_prompt": row.num_prompt,
    }


def _row(fields: dict[str, Any]) -> Row:
    return Row(
        ids_T=torch.tensor(fields["ids"], dtype=torch.int64),
        is_action_T=torch.tensor(fields["is_action"], dtype=torch.bool),
        sampling_logprobs_T=torch.tensor(fields["sampling_logprobs"], dtype=torch.float32),
        advantages_T=torch.tensor(fields["advantages"], dtype=torch.float32),
        num_prompt=int(fields["num_prompt"]),
    )
