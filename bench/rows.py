"""What a baseline computes: rows of tokens, and the cost of the tokens that were sampled."""

# R rows, T tokens of a row with its padding, N action tokens of a row

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from wire.trajectories import Batch, Trajectory, Turn

Each = TypeVar("Each")

ROWS_AT_ONCE = 8
CLIP = (0.8, 1.2)


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """ids_T: int64. is_action_T: which of them were sampled; sampling_logprobs_T and advantages_T: 0 elsewhere.
    num_prompt: tokens before the first action."""

    ids_T: torch.Tensor
    is_action_T: torch.Tensor
    sampling_logprobs_T: torch.Tensor
    advantages_T: torch.Tensor
    num_prompt: int


@dataclass(frozen=True, slots=True, eq=False)
class Padded:
    """Rows padded on the right to the longest. mask_RT: 1 on real tokens, int64."""

    ids_RT: torch.Tensor
    mask_RT: torch.Tensor
    is_action_RT: torch.Tensor
    sampling_logprobs_RT: torch.Tensor
    advantages_RT: torch.Tensor


def turn_rows(batch: Batch, device: torch.device) -> list[Row]:
    """A row a turn: all of its prompt again, then its output."""
    return [
        _row([turn], advantage, device)
        for trajectory, advantage in zip(batch.trajectories, _advantages(batch), strict=True)
        for turn in trajectory.turns
    ]


def merged_rows(batch: Batch, device: torch.device) -> list[Row]:
    """A row a trajectory. Raises ValueError if a turn does not extend the one before."""
    return [
        _row(_extending(trajectory), advantage, device)
        for trajectory, advantage in zip(batch.trajectories, _advantages(batch), strict=True)
    ]


def pad(rows: Sequence[Row]) -> Padded:
    """One tensor a field."""

    def stack(parts: Iterable[torch.Tensor]) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)

    return Padded(
        ids_RT=stack(row.ids_T for row in rows),
        mask_RT=stack(torch.ones_like(row.ids_T) for row in rows),
        is_action_RT=stack(row.is_action_T for row in rows),
        sampling_logprobs_RT=stack(row.sampling_logprobs_T for row in rows),
        advantages_RT=stack(row.advantages_T for row in rows),
    )


def in_micro_batches(rows: Sequence[Each], rows_at_once: int) -> Iterator[Sequence[Each]]:
    """In order, as many at once as asked for."""
    return (rows[start : start + rows_at_once] for start in range(0, len(rows), rows_at_once))


def ppo_cost(logprobs_N: torch.Tensor, sampling_logprobs_N: torch.Tensor, advantages_N: torch.Tensor) -> torch.Tensor:
    """PPO's clipped cost by the letter (arXiv:1707.06347), summed."""
    ratios_N = torch.exp(logprobs_N - sampling_logprobs_N)
    return -torch.min(ratios_N * advantages_N, ratios_N.clamp(*CLIP) * advantages_N).sum()


def _advantages(batch: Batch) -> list[float]:
    size = batch.group_size or len(batch.trajectories)
    rewards = [trajectory.reward for trajectory in batch.trajectories]
    return [reward - statistics.fmean(rewards[i // size * size :][:size]) for i, reward in enumerate(rewards)]


def _extending(trajectory: Trajectory) -> Sequence[Turn]:
    for before, turn in zip(trajectory.turns, trajectory.turns[1:], strict=False):
        history = np.concatenate([before.prompt_ids, before.output_ids])
        if not np.array_equal(turn.prompt_ids[: len(history)], history):
            raise ValueError("the baselines merge turns that extend one another, and these do not")
    return trajectory.turns


def _row(turns: Sequence[Turn], advantage: float, device: torch.device) -> Row:
    ids_T = np.concatenate([turns[-1].prompt_ids, turns[-1].output_ids]).astype(np.int64)
    is_action_T, sampling_logprobs_T = np.zeros(len(ids_T), bool), np.zeros(len(ids_T), np.float32)
    for turn in turns:
        span = slice(len(turn.prompt_ids), len(turn.prompt_ids) + len(turn.output_ids))
        is_action_T[span], sampling_logprobs_T[span] = True, turn.sampling_logprobs
    return Row(
        ids_T=torch.from_numpy(ids_T).to(device),
        is_action_T=torch.from_numpy(is_action_T).to(device),
        sampling_logprobs_T=torch.from_numpy(sampling_logprobs_T).to(device),
        advantages_T=torch.from_numpy(np.where(is_action_T, np.float32(advantage), np.float32(0))).to(device),
        num_prompt=len(turns[0].prompt_ids),
    )
