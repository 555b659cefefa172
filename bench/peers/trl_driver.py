"""TRL's GRPO loss and AdamW in this process, driven as `bench.peers.sdk_driver` is: there is no service to ask.

Arguments: the base's folder and the LoRA rank. A check answers with the loss, for its logprobs do not leave it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from bench.peers.workloads import load_rows
from bench.trl_path import Cost, trl_costs

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LEARNING_RATE = 1e-5


def main() -> None:
    """A line in, a line out."""
    base, rank = sys.argv[1:]
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    driver = Driver(base, int(rank))
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(driver, command.pop("do"))(**command)
        print(json.dumps(answer), file=answers, flush=True)


class Driver:
    """One policy that makes steps, and one that never does."""

    def __init__(self, base: str, rank: int) -> None:
        self._policy, self._untrained = _policy(base, rank), _policy(base, rank)
        trained = [parameter for parameter in self._policy.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
        self._costs: list[Cost] = []

    def load(self, path: str) -> dict[str, Any]:
        """Rows from now on."""
        self._path = Path(path)
        self._costs = trl_costs(self._policy, load_rows(self._path))
        return {}

    def check(self) -> dict[str, float]:
        """Of the policy that never makes a step."""
        with torch.no_grad():
            return {"loss": sum(float(cost()) for cost in trl_costs(self._untrained, load_rows(self._path)))}

    def step(self, models: int, pipelined: bool) -> dict[str, float]:
        """Both ways are one here."""
        assert models == 1, "a trainer has one policy"
        started = time.perf_counter()
        for cost in self._costs:
            cost().backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        return {"seconds": time.perf_counter() - started}


def _policy(base: str, rank: int) -> PeftModel:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    lora = LoraConfig(r=rank, lora_alpha=32, target_modules=TARGETS)
    return get_peft_model(model, lora)  # pyright: ignore[reportReturnType]  # no mixed adapters are asked for


if __name__ == "__main__":
    main()
