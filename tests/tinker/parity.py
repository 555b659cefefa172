"""Whether a box samples from the policy that it trains, with the SDK's own defaults: rank 32 on attention, MLP and
unembedding."""

from __future__ import annotations

from typing import Any

import numpy as np
import tinker

PROMPT = [4, 9, 5, 11, 3]


def service_of(env: dict[str, str]) -> tinker.ServiceClient:
    """A client of the box whose environment this is, to be closed: it beats its session's heart until then."""
    return tinker.ServiceClient(base_url=env["TINKER_BASE_URL"], api_key=env["TINKER_API_KEY"])


def datum(tokens: list[int], **inputs: Any) -> tinker.Datum:
    inputs = {"target_tokens": np.array(tokens[1:], np.int64), **inputs}
    return tinker.Datum(model_input=tinker.ModelInput.from_ints(tokens[:-1]), loss_fn_inputs=inputs)


def trained_run(service: tinker.ServiceClient, base: str) -> Any:
    """A run after three steps that move its policy far from the base."""
    training = service.create_lora_training_client(base_model=base, seed=5).result()
    random = np.random.default_rng(0)
    for _ in range(3):
        tokens = [random.integers(3, 15, 16).tolist() for _ in range(4)]
        training.forward_backward([datum(row) for row in tokens], "cross_entropy").result()
        training.optim_step(tinker.AdamParams(learning_rate=2e-2)).result()
    return training


def differences(training: Any, *, scores_prompts: bool = True) -> dict[str, float]:
    """The largest in nats between the trainer's logprobs and the sampler's, of what it draws and of what it is shown;
    and how far a policy gradient on fresh samples is from its definition, in shares of its size.

    scores_prompts: whether the box's sampler does."""
    sampler = training.save_weights_and_get_sampling_client().result()
    prompt = tinker.ModelInput.from_ints(PROMPT)
    params = tinker.SamplingParams(max_tokens=12, temperature=1.0, seed=3, stop=[])
    drawn = sampler.sample(prompt, num_samples=4, sampling_params=params).result().sequences
    rows = [[*PROMPT, *sequence.tokens] for sequence in drawn]
    scored = training.forward([datum(row) for row in rows], "cross_entropy").result().loss_fn_outputs
    found = [np.asarray(output["logprobs"].data) for output in scored]
    shown = [
        np.array(sampler.compute_logprobs(tinker.ModelInput.from_ints(row)).result()[1:], float)
        for row in (rows if scores_prompts else ())
    ]
    samples = [np.asarray(sequence.logprobs) for sequence in drawn]
    first = len(PROMPT) - 1
    return {
        "drawn": max(np.abs(p[first:] - q).max() for p, q in zip(found, samples, strict=True)),
        "shown": max((np.abs(p - q).max() for p, q in zip(found, shown, strict=False)), default=0.0),
        "policy gradient": _policy_gradient(training, rows, samples),
    }


def _policy_gradient(training: Any, rows: list[list[int]], samples: list[np.ndarray]) -> float:
    padding, data, total = np.zeros(len(PROMPT) - 1), [], 0.0
    for index, (row, q) in enumerate(zip(rows, samples, strict=True)):
        advantage = index - 1.0
        q_N, a_N = (np.concatenate([padding, each]).astype(np.float32) for each in (q, np.full(len(q), advantage)))
        data.append(datum(row, logprobs=q_N, advantages=a_N))
        total -= advantage * len(q)  # every ratio is 1
    result = training.forward_backward(data, "importance_sampling").result()
    return abs(result.metrics["loss:sum"] - total) / abs(total)
