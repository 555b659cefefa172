"""What callers want trained on, in no protocol's terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from wire.trajectories import Float32Array, Trajectory


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """Trajectories, or the trace ids of recorded ones, in contiguous groups of `group_size` (None: all are one group).

    max_staleness: of recorded rollouts, the most optimizer steps that may lie between their samples' checkpoint and the
    head. num_bytes: of what the batch was read from; work on many is done in a thread.
    """

    inputs: Sequence[Trajectory | UUID]
    group_size: int | None = None
    reward_scale: float = 1.0
    max_staleness: int | None = None
    num_bytes: int = 0


@dataclass(frozen=True, slots=True)
class WeightsRequest:
    """Weights −dC/dlogprobs, one float32 array for each datum of a forward, and metrics of the caller's own."""

    forward_id: str
    weights: Sequence[Float32Array]
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    num_bytes: int = 0
