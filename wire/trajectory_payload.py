"""Format 1 of a training payload: trajectories, which became datums in the trainer. Read for replay, never written.

A batch repeats each turn's history in the next turn's prompt. It is stored as the length of the prefix shared
with the previous turn's prompt + output, and the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from wire.trajectories import Batch, Trajectory, Turn

Arrays = Mapping[str, npt.NDArray[Any]]

_OF_THE_BATCH = ("turns", "trace_ids", "group_size", "reward_scale")


def read_batch(header: Mapping[str, Any], arrays: Arrays) -> tuple[Batch, dict[str, Any]]:
    """The batch of a payload that was taken apart already, and the JSON-able arguments that go with it."""
    tails = _split(arrays["prompt_tails"], arrays["prompt_tail_lengths"])
    outputs = _split(arrays["outputs"], arrays["output_lengths"])
    logprobs = _split(arrays["logprobs"], arrays["logprob_lengths"])
    trajectories, at = [], 0
    for count, reward, trace_id in zip(header["turns"], arrays["rewards"], header["trace_ids"], strict=True):
        history, turns = np.zeros(0, np.int32), []
        for i in range(at, at + count):
            prompt = np.concatenate([history[: arrays["prompt_shared"][i]], tails[i]])
            turns.append(Turn(prompt, outputs[i], logprobs[i]))
            history = np.concatenate([prompt, outputs[i]])
        trajectories.append(Trajectory(tuple(turns), float(reward), trace_id))
        at += count
    batch = Batch(trajectories, header["group_size"], header["reward_scale"])
    return batch, {name: value for name, value in header.items() if name not in _OF_THE_BATCH}


def _split(flat: npt.NDArray[Any], lengths: npt.NDArray[np.int32]) -> list[npt.NDArray[Any]]:
    return np.split(flat, np.cumsum(lengths)[:-1]) if len(lengths) else []
