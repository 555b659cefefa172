"""Trajectories sampled through the gateway, as raw training inputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.e2e.box import Box


def chat(box: Box, model: str, content: str = "12+30=?", **body: Any) -> dict[str, Any]:
    """One chat completion with token ids and logprobs."""
    request = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "logprobs": True,
        "return_token_ids": True,
        "max_tokens": 8,
        **body,
    }
    return box.call("POST", "/v1/chat/completions", request)


def sample_of(choice: dict[str, Any]) -> dict[str, Any]:
    return {
        "prompt_token_ids": choice["prompt_token_ids"],
        "output_token_ids": choice["token_ids"],
        "output_logprobs": [t["logprob"] for t in choice["logprobs"]["content"]],
    }


def group(box: Box, model: str, content: str, size: int = 4, seed: int = 0) -> list[dict[str, Any]]:
    """A group of rollouts of one prompt; the i-th is rewarded i."""
    choices = chat(box, model, content, n=size, seed=seed)["choices"]
    return [{"samples": [sample_of(c)], "reward": float(i)} for i, c in enumerate(choices)]


def greedy(box: Box, model: str, content: str = "12+30=?", **body: Any) -> tuple[list[int], list[float]]:
    """Token ids and logprobs at temperature 0."""
    sample = sample_of(chat(box, model, content, temperature=0.0, **body)["choices"][0])
    return sample["output_token_ids"], sample["output_logprobs"]


def step(box: Box, model_id: str, inputs: list[dict[str, Any]], learning_rate: float = 1e-3, **body: Any) -> Any:
    box.call("POST", f"/v1/models/{model_id}/train/forward-backward", {"inputs": inputs, **body})
    return box.call("POST", f"/v1/models/{model_id}/train/optim-step", {"learning_rate": learning_rate})


def worst_disagreement(box: Box, model_id: str, inputs: list[dict[str, Any]]) -> float:
    """Largest |sampler logprob − trainer logprob| over the action tokens of on-policy inputs."""
    data = box.call("POST", f"/v1/models/{model_id}/train/forward", {"inputs": inputs})["data"]
    worst = 0.0
    for datum in data:
        mask = np.array(datum["mask"]) == 1.0
        assert mask.sum() > 0
        difference = np.array(datum["logprobs"])[mask] - np.array(datum["sampling_logprobs"])[mask]
        worst = max(worst, float(np.abs(difference).max()))
    return worst
