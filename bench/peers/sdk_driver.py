"""Trains on a Tinker-compatible service, with the `tinker` of the interpreter that runs this: a command a line of
standard input, an answer a line of standard output, JSON both. Needs nothing else, for it runs in the environment of
each contender.

    {"do": "load", "path": …}                        rows, as bench.peers.workloads writes them
    {"do": "check"}                                  logprobs of the untrained model, a row each
    {"do": "step", "models": …, "pipelined": …}      seconds of forward_backward and optim_step of each model
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import tinker
from tinker import types

RANK, LEARNING_RATE = 16, 1e-5
LOSS, LOSS_CONFIG = "ppo", {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}


def main() -> None:
    """Arguments: URL, key, name of the base."""
    url, key, base = sys.argv[1:]
    driver = Driver(tinker.ServiceClient(base_url=url, api_key=key), base)
    print("{}", flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(driver, command.pop("do"))(**command)
        print(json.dumps(answer), flush=True)


class Driver:
    """Models are made when first needed, and stay."""

    def __init__(self, service: Any, base: str) -> None:
        self._service, self._base = service, base
        self._models: list[Any] = []
        self._untrained: Any = None
        self._data: list[types.Datum] = []

    def load(self, path: str) -> dict[str, Any]:
        """Rows from now on."""
        with open(path) as file:
            self._data = [datum_of(row) for row in json.load(file)]
        return {}

    def check(self) -> dict[str, Any]:
        """A pass of a model that never makes a step."""
        self._untrained = self._untrained or self._new_model()
        found = self._untrained.forward_backward(self._data, LOSS, LOSS_CONFIG).result()
        return {"logprobs": [_floats(output["logprobs"]) for output in found.loss_fn_outputs]}

    def step(self, models: int, pipelined: bool) -> dict[str, Any]:
        """Of the first so many models."""
        while len(self._models) < models:
            self._models.append(self._new_model())
        started = time.perf_counter()
        if pipelined:
            sent = [call(model) for model in self._models[:models] for call in (self._pass, self._update)]
            for future in sent:
                future.result()
        else:
            for model in self._models[:models]:
                self._pass(model).result()
                self._update(model).result()
        return {"seconds": time.perf_counter() - started}

    def _pass(self, model: Any) -> Any:
        return model.forward_backward(self._data, LOSS, LOSS_CONFIG)

    def _update(self, model: Any) -> Any:
        return model.optim_step(types.AdamParams(learning_rate=LEARNING_RATE))

    def _new_model(self) -> Any:
        made = self._service.create_lora_training_client(base_model=self._base, rank=RANK, seed=0, train_unembed=False)
        return made.result() if hasattr(made, "result") else made  # since 0.38 it is a future


def datum_of(row: Mapping[str, Any]) -> types.Datum:
    """Inputs and targets are one token apart; what was not sampled has no advantage."""
    return types.Datum(
        model_input=types.ModelInput.from_ints(row["ids"][:-1]),
        loss_fn_inputs={
            "target_tokens": _tensor(row["ids"][1:], "int64"),
            "logprobs": _tensor(row["sampling_logprobs"][1:], "float32"),
            "advantages": _tensor(row["advantages"][1:], "float32"),
        },
    )


def _tensor(data: list[Any], dtype: Any) -> types.TensorData:
    return types.TensorData(data=data, dtype=dtype, shape=[len(data)])


def _floats(tensor: Any) -> list[float]:
    return [float(value) for value in tensor.data]


if __name__ == "__main__":
    main()
