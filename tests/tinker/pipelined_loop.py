"""A training loop that queues its calls ahead of their results, as recipes do; run as a process of its own.

`python -m tests.tinker.pipelined_loop --steps N`, with TINKER_BASE_URL and TINKER_API_KEY set, prints one JSON line:
the paths that it saved, and the loss of each step.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import deque
from typing import Any

import tinker
from tinker import types

_AHEAD = 4
"""Steps whose results nobody has read yet."""
_SAVE_EVERY = 10


def datums(step: int, num: int = 3) -> list[types.Datum]:
    """Supervised examples whose tokens follow from the step."""
    made: list[types.Datum] = []
    for index in range(num):
        tokens = [3 + (7 * step + 5 * index + 11 * position) % 40 for position in range(9 + index)]
        inputs: dict[str, Any] = {
            "target_tokens": types.TensorData(data=tokens[1:], dtype="int64", shape=[len(tokens) - 1]),
            "weights": types.TensorData(data=[1.0] * (len(tokens) - 1), dtype="float32", shape=[len(tokens) - 1]),
        }
        made.append(types.Datum(model_input=types.ModelInput.from_ints(tokens[:-1]), loss_fn_inputs=inputs))
    return made


def run(num_steps: int, ahead: int) -> dict[str, Any]:
    service = tinker.ServiceClient()
    training: Any = service.create_lora_training_client(base_model="tiny-arith", rank=4, seed=7, train_unembed=False)
    waiting: deque[Any] = deque()
    losses: list[float] = []
    paths: list[str] = []

    def read_one() -> None:
        passed, stepped, saved = waiting.popleft()
        losses.append(passed.result(600).metrics["loss:sum"])
        stepped.result(600)
        if saved is not None:
            paths.append(saved.result(600).path)

    for step in range(num_steps):
        passed = training.forward_backward(datums(step), "cross_entropy")
        stepped = training.optim_step(types.AdamParams(learning_rate=1e-3))
        is_saved = step % _SAVE_EVERY == _SAVE_EVERY - 1 or step == num_steps - 1
        waiting.append((passed, stepped, training.save_state(f"{step:04d}") if is_saved else None))
        if len(waiting) > ahead:
            read_one()
    while waiting:
        read_one()
    return {"paths": paths, "losses": losses}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--ahead", type=int, default=_AHEAD)
    given = parser.parse_args()
    sys.stdout.write(json.dumps(run(given.steps, given.ahead)) + "\n")


if __name__ == "__main__":
    main()
