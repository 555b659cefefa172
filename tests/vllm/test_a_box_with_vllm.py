"""The whole of Headway with vLLM as its sampler: two steps of training."""

from __future__ import annotations

import numpy as np
import pytest

from tests.e2e.box import Box
from tests.e2e.rollouts import chat, greedy, group, step

pytestmark = pytest.mark.vllm


def differences(box: Box, model_id: str, inputs: list) -> np.ndarray:
    """Sampler minus trainer, in nats, of every action token of on-policy inputs."""
    data = box.call("POST", f"/v1/models/{model_id}/train/forward", {"inputs": inputs})["data"]
    masks = [np.array(datum["mask"]) == 1.0 for datum in data]
    sides = [np.array(datum["sampling_logprobs"]) - np.array(datum["logprobs"]) for datum in data]
    return np.concatenate([side[mask] for side, mask in zip(sides, masks, strict=True)])


def test_two_steps_are_served_by_vllm_the_moment_they_are_done(box: Box):
    model_id = box.fork("with-vllm")
    answers = [greedy(box, "with-vllm")]
    for number in range(3):
        inputs = [item for prompt in ("12+30=?", "7+8=?") for item in group(box, "with-vllm", prompt, 8, seed=number)]
        gaps = differences(box, model_id, inputs)
        kl = float((np.exp(-gaps) - 1 + gaps).mean())  # the estimator that is never negative
        print(f"step {number}: KL {kl:.2g}, largest difference {np.abs(gaps).max():.2g} nats, {len(gaps)} tokens")
        assert kl < 1e-6
        if number < 2:
            done = step(box, model_id, inputs, 1e-3, group_size=8)
            first = chat(box, "with-vllm", temperature=0.0)
            assert first["checkpoint"]["id"] == done["checkpoint_id"]
            answers.append(greedy(box, "with-vllm"))
    assert answers[1][1] != pytest.approx(answers[0][1], abs=1e-4)
    assert answers[2][1] != pytest.approx(answers[1][1], abs=1e-4)
