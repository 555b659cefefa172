"""What one model is put through: a list of calls made from a seed, and nothing else.

Token ids, logprobs, rewards and weights are drawn, not sampled from the model, so the weights at the end depend on
the calls alone.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.chaos.client import PatientClient

NUM_STEPS = 5
_VOCABULARY = 270
_GROUP = 4


@dataclass(slots=True)
class Progress:
    """What a model's client was told: answers in order, and the checkpoints that its steps made."""

    answers: list[Any] = field(default_factory=list)
    checkpoints: list[str] = field(default_factory=list)


Call = Callable[[PatientClient, str, str, Progress], None]
"""Given the client, the model's id and slug, and what happened so far."""


def program(seed: int, num_steps: int = NUM_STEPS) -> list[Call]:
    """The calls of one model."""
    rng = np.random.default_rng(seed)
    calls: list[Call] = []
    for step in range(num_steps):
        if step == num_steps - 2:
            calls += [_forward_backward(rng, 2), _rollback(int(rng.integers(0, step)))]
        calls += _gradients(rng, (seed + step) % 3)
        calls += [optim_step(1e-3 * (1 + step)), _greedy]
        if step == 1:
            calls.append(optim_step(0.5))  # refused: nothing has accumulated
    return calls


def forwards(seed: int) -> Iterator[Call]:
    """Calls without end that change nothing."""
    rng = np.random.default_rng(seed)
    body = {"inputs": _inputs(rng, 6)}

    def call(client: PatientClient, model_id: str, _slug: str, progress: Progress) -> None:
        _train(client, model_id, "forward", body, progress)
        progress.answers.clear()

    return itertools.repeat(call)


def _gradients(rng: np.random.Generator, style: int) -> list[Call]:
    if style == 0:
        return [_forward_backward(rng, 2), _forward_backward(rng, 6)]
    if style == 1:
        return [_custom(rng, 2)]
    return [_forward_backward(rng, 2), _custom(rng, 4)]


def _forward_backward(rng: np.random.Generator, num_groups: int) -> Call:
    return forward_backward(_inputs(rng, num_groups), _GROUP)


def _custom(rng: np.random.Generator, num_groups: int) -> Call:
    return custom(_inputs(rng, num_groups), int(rng.integers(0, 2**31)))


def forward_backward(inputs: Sequence[dict[str, Any]], group_size: int) -> Call:
    """The gradient of a built-in loss."""
    body = {"inputs": inputs, "group_size": group_size, "loss_fn": "importance_sampling"}

    def call(client: PatientClient, model_id: str, _slug: str, progress: Progress) -> None:
        _train(client, model_id, "forward-backward", body, progress)

    return call


def custom(inputs: Sequence[dict[str, Any]], weight_seed: int) -> Call:
    """A forward, and a backward with weights of the caller's own."""
    body = {"inputs": inputs}

    def call(client: PatientClient, model_id: str, _slug: str, progress: Progress) -> None:
        done = _train(client, model_id, "forward", body, progress)
        draw = np.random.default_rng(weight_seed)
        weights = [draw.normal(size=len(datum["logprobs"])).round(4).tolist() for datum in done["data"]]
        _train(client, model_id, "backward", {"forward_id": done["forward_id"], "weights": weights}, progress)

    return call


def optim_step(learning_rate: float) -> Call:
    """A step; the progress has its checkpoint, if it makes one."""

    def call(client: PatientClient, model_id: str, _slug: str, progress: Progress) -> None:
        done = _train(client, model_id, "optim-step", {"learning_rate": learning_rate}, progress)
        if "checkpoint_id" in done:
            progress.checkpoints.append(done["checkpoint_id"])

    return call


def _rollback(index: int) -> Call:
    def call(client: PatientClient, model_id: str, _slug: str, progress: Progress) -> None:
        body = {"checkpoint_id": progress.checkpoints[index]}
        progress.answers.append(("head", client.expect("PUT", f"/v2/models/{model_id}/head", body)["step"]))

    return call


def _greedy(client: PatientClient, _model_id: str, slug: str, progress: Progress) -> None:
    answer = greedy(client, slug)
    assert answer["checkpoint"]["id"] == progress.checkpoints[-1], "the head is the last step's checkpoint"
    progress.answers.append(("greedy", answer["choices"][0]["token_ids"]))


def greedy(client: PatientClient, slug: str) -> Any:
    """A chat at temperature 0."""
    messages = [{"role": "user", "content": "12+30=?"}]
    body = {"model": slug, "messages": messages, "max_tokens": 4, "temperature": 0.0, "return_token_ids": True}
    return client.expect("POST", "/v1/chat/completions", body)


def _train(client: PatientClient, model_id: str, what: str, body: Any, progress: Progress) -> Any:
    path = f"/v1/models/{model_id}/train/{what}"
    status, answer = client.call("POST", path, body, key=uuid.uuid4().hex)
    progress.answers.append((what, status, _without_names(answer)))
    return answer


def _without_names(answer: Any) -> Any:
    """What two runs must agree on."""
    if "metrics" in answer:
        answer = {**answer, "metrics": deterministic(answer["metrics"])}
    named = ("checkpoint_id", "sampler_path", "state_path", "model", "forward_id", "message", "detail", "error")
    return {key: value for key, value in answer.items() if key not in named}


def deterministic(metrics: dict[str, Any]) -> dict[str, Any]:
    """Without what a clock has measured."""
    return {name: value for name, value in metrics.items() if not name.startswith(("seconds", "tokens_per_s"))}


def _inputs(rng: np.random.Generator, num_groups: int) -> list[dict[str, Any]]:
    return [trajectory for _ in range(num_groups) for trajectory in _group(rng)]


def _group(rng: np.random.Generator) -> Sequence[dict[str, Any]]:
    prompt = rng.integers(0, _VOCABULARY, size=int(rng.integers(4, 9))).tolist()
    return [_trajectory(rng, prompt) for _ in range(_GROUP)]


def _trajectory(rng: np.random.Generator, prompt: list[int]) -> dict[str, Any]:
    sample = {"prompt_token_ids": prompt, **sampled(rng, _VOCABULARY)}
    return {"samples": [sample], "reward": float(rng.integers(0, 3))}


def sampled(rng: np.random.Generator, vocabulary: int) -> dict[str, Any]:
    """What a sampler is said to have answered."""
    output = rng.integers(0, vocabulary, size=int(rng.integers(3, 10))).tolist()
    logprobs = rng.uniform(-6.0, -4.0, size=len(output)).round(4).tolist()
    return {"output_token_ids": output, "output_logprobs": logprobs}
