"""Token-level rollouts as the trainer sees them: turns, trajectories, batches.

Arrays, not lists: a batch of long multi-turn rollouts holds tens of millions of repeated prompt tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wire.extension import Int32Array, Media, TokenSequence, begins_with

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Turn:
    """One sampling call: the whole prompt the policy saw, and what it sampled.

    prompt_ids, output_ids: int32 token ids. sampling_logprobs: float32 nats, one per output id, or empty where the
    tokens were not sampled from a policy (supervised data). media: pictures of the prompt; nobody samples any.
    """

    prompt_ids: Int32Array
    output_ids: Int32Array
    sampling_logprobs: Float32Array
    media: tuple[Media, ...] = ()

    @property
    def prompt(self) -> TokenSequence:
        """What the policy saw, to be compared."""
        return TokenSequence(self.prompt_ids, self.media)

    @property
    def output(self) -> TokenSequence:
        """What it sampled, to be compared."""
        return TokenSequence(self.output_ids)

    def continues(self, earlier: Turn) -> bool:
        """Whether this prompt begins with the earlier prompt and output."""
        return begins_with(self.prompt, earlier.prompt, earlier.output)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The turns of one rollout in order, and the reward of the whole."""

    turns: tuple[Turn, ...]
    reward: float
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Trajectories in contiguous groups of `group_size` (None: all of them are one group)."""

    trajectories: Sequence[Trajectory]
    group_size: int | None = None
    reward_scale: float = 1.0

    @property
    def num_prompt_tokens(self) -> int:
        """Prompt tokens as sent, repeats included."""
        return sum(len(turn.prompt_ids) for t in self.trajectories for turn in t.turns)

    @property
    def num_tokens(self) -> int:
        """Prompt and output tokens as sent, repeats included."""
        return self.num_prompt_tokens + sum(len(turn.output_ids) for t in self.trajectories for turn in t.turns)
