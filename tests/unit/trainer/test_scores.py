from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.unit.trainer.tiny import datum_of
from trainer.engine.kernels.dense import DenseKernel
from trainer.engine.packing import build_pack
from trainer.engine.scores import Scores, refuse_nonfinite
from wire.errors import InvalidRequest


def scores_of_two_rollouts_that_read_one_prediction() -> tuple[Scores, torch.Tensor]:
    datums = [datum_of([1, 2], 1, trajectory_index=i + 4) for i in range(2)]
    pack = build_pack(datums, DenseKernel(), torch.device("cpu"))
    shared = replace(pack, rows_P=pack.rows_P[:1], targets_P=pack.targets_P[:1], inverse_N=torch.tensor([0, 0]))
    logprobs = torch.tensor([-0.25], requires_grad=True)
    return Scores.of(shared, logprobs * 1, torch.tensor([0.5])), logprobs


def test_a_prediction_that_two_rollouts_share_gets_the_gradient_of_both() -> None:
    scores, logprobs = scores_of_two_rollouts_that_read_one_prediction()
    assert scores.logprobs_N.tolist() == [-0.25, -0.25]
    scores.backpropagate(torch.tensor([2.0, 3.0]))
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [-5.0]


def test_weights_of_zero_run_no_backward() -> None:
    scores, logprobs = scores_of_two_rollouts_that_read_one_prediction()
    scores.backpropagate(torch.zeros(2))
    assert logprobs.grad is None


def test_the_trajectory_of_a_nonfinite_value_is_named() -> None:
    scores, _ = scores_of_two_rollouts_that_read_one_prediction()
    with pytest.raises(InvalidRequest, match="input 5"):
        refuse_nonfinite(torch.tensor([0.0, torch.inf]), scores)
