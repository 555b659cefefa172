"""A micro-batch under the bound weights: each target's logprob, and the backward pass."""

# N targets of the micro-batch, datum by datum; P predictions that they read

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from trainer.engine.finite import all_finite
from trainer.engine.packing import Pack
from wire.datums import Datum
from wire.errors import InvalidRequest, NonFinite
from wire.trajectories import Float32Array


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """logprobs_P: nats, with the graph that leads back to the LoRA weights.

    All else is detached and aligned, one entry a target: logprobs_N, sampling_logprobs_N, entropies_N (of the
    distribution that the token was scored under), sequences_N (int64, which datum of the micro-batch), and on the
    CPU trajectories_N (which trajectory of the call, for refusals).
    """

    pack: Pack
    logprobs_P: torch.Tensor
    logprobs_N: torch.Tensor
    sampling_logprobs_N: torch.Tensor
    entropies_N: torch.Tensor
    sequences_N: torch.Tensor
    trajectories_N: npt.NDArray[np.int64]

    @classmethod
    def of(cls, pack: Pack, logprobs_P: torch.Tensor, entropies_P: torch.Tensor) -> Scores:
        """From what the model says of a pack's predictions."""
        lengths = [datum.targets.size for datum in pack.datums]
        sequences_N = np.repeat(np.arange(len(lengths)), lengths)
        return cls(
            pack=pack,
            logprobs_P=logprobs_P,
            logprobs_N=logprobs_P.detach()[pack.inverse_N],
            sampling_logprobs_N=_like(logprobs_P, [datum.per_target(datum.sampling_logprobs) for datum in pack.datums]),
            entropies_N=entropies_P[pack.inverse_N],
            sequences_N=torch.from_numpy(sequences_N).to(logprobs_P.device),
            trajectories_N=trajectory_indices(pack.datums)[sequences_N],
        )

    def per_action(self, rows: Sequence[npt.NDArray[np.floating]]) -> torch.Tensor:
        """Rows of values, one a datum and one value a target, as a tensor like logprobs_N."""
        return _like(self.logprobs_P, rows)

    def counting(self) -> torch.Tensor | None:
        """int64, one entry of logprobs_N for each position that has a weight; None for all entries, in order."""
        has_weight = [datum.has_weight for datum in self.pack.datums]
        if not self.pack.has_several and all(each.all() for each in has_weight):
            return None
        firsts, start = list[npt.NDArray[np.int64]](), 0
        for datum, each in zip(self.pack.datums, has_weight, strict=True):
            firsts.append(start + np.flatnonzero(each) * (datum.targets.size // datum.num_scored))
            start += datum.targets.size
        return torch.from_numpy(np.concatenate(firsts)).to(self.logprobs_N.device)

    def per_datum(self) -> dict[Datum, Float32Array]:
        """The logprobs of each datum's targets, in their shape, on the CPU: one copy a micro-batch."""
        rows = self.logprobs_N.float().cpu().split([datum.targets.size for datum in self.pack.datums])
        pairs = zip(self.pack.datums, rows, strict=True)
        return {datum: row.numpy().reshape(datum.targets.shape) for datum, row in pairs}

    def backpropagate(self, weights_N: torch.Tensor) -> None:
        """Add the gradient of −Σ weights_N · logprobs_N to the bound scratch; all zero costs nothing."""
        if not weights_N.any():
            return
        # A prediction that several targets read gets the sum of their weights.
        weights_P = torch.zeros_like(self.logprobs_P).index_add_(0, self.pack.inverse_N, weights_N)
        self.logprobs_P.backward(-weights_P)


def trajectory_indices(datums: Sequence[Datum]) -> npt.NDArray[np.int64]:
    """The trajectory of each datum."""
    return np.array([datum.origin.trajectory_index for datum in datums], np.int64)


def refuse_broken_policy(scores: Scores) -> None:
    """Raises NonFinite if the weights themselves no longer give finite logprobs."""
    if not all_finite(scores.logprobs_P.detach()):
        raise NonFinite(
            "the policy's logprobs are not finite: its weights diverged, set the head to a checkpoint before"
        )


def refuse_nonfinite(
    values_N: torch.Tensor, scores: Scores, reason: str = "its output_logprobs or reward are too far off"
) -> None:
    """Raises InvalidRequest naming a trajectory, the lowest of the micro-batch, whose loss or weight overflowed."""
    finite_N = values_N.isfinite().cpu().numpy()
    if not finite_N.all():
        index = scores.trajectories_N[~finite_N].min()
        raise InvalidRequest(f"input {index}: its loss or gradient is not finite, for {reason}")


def _like(example: torch.Tensor, rows: Sequence[npt.NDArray[np.floating]]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(rows)).to(device=example.device, dtype=example.dtype)
