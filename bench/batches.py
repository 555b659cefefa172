"""The batches that the engine is measured on: random tokens, in the shapes that rollouts have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from wire.trajectories import Batch, Float32Array, Int32Array, Trajectory, Turn


@dataclass(frozen=True, slots=True)
class Shape:
    """Groups of rollouts. Lengths are uniform in [low, high); an output ends each turn, an observation each but the
    last. shared_prompt: the rollouts of a group start from one prompt, as in GRPO; else no two share a token."""

    num_groups: int
    group_size: int
    num_turns: int
    prompt: tuple[int, int]
    output: tuple[int, int]
    observation: tuple[int, int] = (0, 1)
    shared_prompt: bool = True


SHAPES = {
    "A": Shape(4, 8, 4, prompt=(256, 513), output=(32, 97), observation=(32, 97)),
    "L": Shape(1, 8, 3, prompt=(2048, 2049), output=(32, 97), observation=(32, 97)),
    "F": Shape(4, 8, 1, prompt=(64, 129), output=(64, 129)),
    "U": Shape(4, 8, 1, prompt=(256, 513), output=(64, 129), shared_prompt=False),
}


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """unique: nodes of the prefix trees of the groups, without the last token of a sequence, which predicts nothing.
    unique_pairs: of a unique token and one that it sees, itself included. actions: sampled tokens."""

    unique: int
    unique_pairs: int
    actions: int


def random_batch(shape: Shape, vocab_size: int, seed: int) -> Batch:
    """Rewards are standard normal; sampling logprobs are zero until `near_policy` sets them."""
    rng = np.random.default_rng(seed)
    trajectories = [rollout for _ in range(shape.num_groups) for rollout in _group(rng, shape, vocab_size)]
    for index, trajectory in enumerate(trajectories if not shape.shared_prompt else []):
        trajectory.turns[0].prompt_ids[0] = index
    return Batch(trajectories, group_size=shape.group_size)


def near_policy(batch: Batch, logprobs: Sequence[Float32Array], seed: int) -> Batch:
    """The batch with sampling logprobs a step away from the policy's own, given one row of them a trajectory.

    The steps land inside and outside PPO's clipping range, but never so near its edges that rounding decides.
    """
    rng = np.random.default_rng(seed)
    moved = [row + rng.choice([-0.5, -0.1, 0.0, 0.1, 0.5], len(row)).astype(np.float32) for row in logprobs]
    return replace(batch, trajectories=[_with_logprobs(*pair) for pair in zip(batch.trajectories, moved, strict=True)])


def count_tokens(batch: Batch) -> TokenCounts:
    """Of a batch whose turns extend one another. Sorted, a sequence shares with the one before all that it shares."""
    size, unique, pairs = batch.group_size or len(batch.trajectories), 0, 0
    for start in range(0, len(batch.trajectories), size):
        group = batch.trajectories[start : start + size]
        sequences = sorted([*t.turns[-1].prompt_ids.tolist(), *t.turns[-1].output_ids.tolist()][:-1] for t in group)
        for before, sequence in zip([[], *sequences], sequences, strict=False):
            shared = _common_prefix(before, sequence)
            unique += len(sequence) - shared
            pairs += sum(range(shared + 1, len(sequence) + 1))
    actions = sum(len(turn.output_ids) for t in batch.trajectories for turn in t.turns)
    return TokenCounts(unique, pairs, actions)


def _group(rng: np.random.Generator, shape: Shape, vocab_size: int) -> list[Trajectory]:
    shared = _tokens(rng, shape.prompt, vocab_size)
    prompts = (
        shared if shape.shared_prompt else _tokens(rng, shape.prompt, vocab_size) for _ in range(shape.group_size)
    )
    return [_rollout(rng, shape, vocab_size, prompt) for prompt in prompts]


def _rollout(rng: np.random.Generator, shape: Shape, vocab_size: int, prompt: Int32Array) -> Trajectory:
    history, turns = prompt, []
    for _ in range(shape.num_turns):
        output = _tokens(rng, shape.output, vocab_size)
        turns.append(Turn(history, output, np.zeros(len(output), np.float32)))
        history = np.concatenate([history, output, _tokens(rng, shape.observation, vocab_size)])
    return Trajectory(tuple(turns), reward=float(rng.standard_normal()))


def _tokens(rng: np.random.Generator, length: tuple[int, int], vocab_size: int) -> Int32Array:
    return rng.integers(0, vocab_size, rng.integers(*length)).astype(np.int32)


def _with_logprobs(trajectory: Trajectory, logprobs: Float32Array) -> Trajectory:
    ends = np.cumsum([len(turn.output_ids) for turn in trajectory.turns])
    rows = np.split(logprobs, ends[:-1])
    turns = [replace(turn, sampling_logprobs=row) for turn, row in zip(trajectory.turns, rows, strict=True)]
    return replace(trajectory, turns=tuple(turns))


def _common_prefix(one: list[int], other: list[int]) -> int:
    length = min(len(one), len(other))
    return next((i for i in range(length) if one[i] != other[i]), length)
