"""Whether a model learns where both planes multiply in bfloat16: the demo's sums, by a sampler and a trainer in one
process, the tiny base's weights rounded to bfloat16 and its layers rounded though they are small.

`python -m bench.bf16_climb`; a line a step, then one JSON line. About a minute.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from bench.bf16_products import CACHE, Planes, open_planes, stored_in_bf16
from bench.figures import write_figures
from bench.policies import MODEL
from bench.sampling_rate import sample
from examples.arithmetic.problems import Problem, score, split_problems
from wire.conversion import to_datums
from wire.engine import AdamParams, LoraConfig, LossChoice
from wire.process import product_dtype
from wire.process.product_dtype import ProductDtype
from wire.trajectories import Batch, Trajectory, Turn

_GROUPS, _GROUP_SIZE, _LEARNING_RATE = 8, 8, 7e-4
_MOST_TOKENS = 6
_CLIMBED = 0.85


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--products", type=ProductDtype, choices=list(ProductDtype), default=ProductDtype.BF16)
    parser.add_argument("--out", type=Path, help="file for the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, patch.object(product_dtype, "LEAST_WEIGHTS", 0):
        base = stored_in_bf16(CACHE / "tiny-arith", Path(folder) / "base")
        planes = open_planes(base, LoraConfig(), None, options.products)
        found = _train(planes, AutoTokenizer.from_pretrained(base), Path(folder), options.steps)
    rewards, k3s = zip(*found, strict=True)
    last = statistics.mean(rewards[-5:])
    figures = {"first": rewards[0], "last_five": last, "most_k3": max(k3s), "rewards": rewards}
    write_figures("bf16_climb", {"products": options.products, **figures}, options.out)
    return 0 if last >= _CLIMBED else 1


def _train(
    planes: Planes, tokenizer: PreTrainedTokenizerBase, folder: Path, num_steps: int
) -> list[tuple[float, float]]:
    """Mean reward, and k3 between sampler and trainer, of each step."""
    problems, _ = split_problems()
    order, found = np.random.default_rng(0), list[tuple[float, float]]()
    for step in range(num_steps):
        asked = [problems[index] for index in order.choice(len(problems), _GROUPS, replace=False)]
        adapter = _published(planes, folder / f"step-{step}")
        batch = _rollouts(planes, adapter, tokenizer, asked)
        passed = planes.engine.forward_backward(MODEL, to_datums(batch), LossChoice("importance_sampling"))
        planes.engine.optim_step(MODEL, AdamParams(learning_rate=_LEARNING_RATE))
        reward = statistics.mean(trajectory.reward for trajectory in batch.trajectories)
        found.append((reward, passed.metrics["kl_sampling_trainer_k3:mean"]))
        print(f"step {step + 1:3}: reward {reward:.2f}, k3 {found[-1][1]:.1e}", flush=True)
    return found


def _published(planes: Planes, folder: Path) -> str:
    """The model's weights, loaded by the sampler."""
    for part in ("adapter", "state"):
        (folder / part).mkdir(parents=True)
    planes.engine.snapshot(MODEL).write(folder / "adapter", folder / "state")
    planes.backend.load_adapter(folder.name, folder / "adapter")
    return folder.name


def _rollouts(planes: Planes, adapter: str, tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem]) -> Batch:
    trajectories = list[Trajectory]()
    eos_ids = set(planes.backend.info.eos_ids)
    asked = [problem for problem in problems for _ in range(_GROUP_SIZE)]
    prompts = [_prompt(tokenizer, problem) for problem in asked]
    answers = sample(planes.backend, adapter, prompts, _MOST_TOKENS)
    for problem, prompt, (ids, logprobs) in zip(asked, prompts, answers, strict=True):
        length = next((at + 1 for at, token in enumerate(ids) if token in eos_ids), len(ids))
        kept, drawn = np.array(ids[:length], np.int32), np.array(logprobs[:length], np.float32)
        turn = Turn(np.array(prompt, np.int32), kept, drawn)
        text = str(tokenizer.decode(ids[:length], skip_special_tokens=True))
        trajectories.append(Trajectory((turn,), score(problem, text)))
    return Batch(trajectories, group_size=_GROUP_SIZE)


def _prompt(tokenizer: PreTrainedTokenizerBase, problem: Problem) -> list[int]:
    messages = [{"role": "user", "content": problem.prompt}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(str(text), add_special_tokens=False)["input_ids"])  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    sys.exit(main())
