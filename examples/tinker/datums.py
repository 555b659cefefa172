"""A prompt and a completion as the API takes them.

Position t of the input predicts target t, so inputs are all tokens but the last, and targets all but the first. Of N
positions the last `len(completion)` predict the completion; whatever a loss reads is 0 on those before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tinker import types


def completion_datum(prompt: Sequence[int], completion: Sequence[int], **values: Sequence[float]) -> types.Datum:
    """`values`: what a loss reads, by name (`weights`, `advantages`, `logprobs`): one number a completion token."""
    tokens = [*prompt, *completion]
    padding = [0.0] * (len(prompt) - 1)
    inputs = {name: types.TensorData(data=[*padding, *given], dtype="float32") for name, given in values.items()}
    inputs["target_tokens"] = types.TensorData(data=tokens[1:], dtype="int64")
    return types.Datum(model_input=types.ModelInput.from_ints(tokens[:-1]), loss_fn_inputs=inputs)


def completion_logprobs(passed: types.ForwardBackwardOutput, completions: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """What the trainer computed for the tokens of each completion, nats."""
    outputs = (output["logprobs"].to_numpy() for output in passed.loss_fn_outputs)
    return [logprobs[-len(completion) :] for logprobs, completion in zip(outputs, completions, strict=True)]
