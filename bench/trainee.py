"""A model that is trained on sums and scored on held-out ones, over HTTP alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from examples.arithmetic.problems import Problem, score, split_problems
from tests.e2e.box import Box
from tests.e2e.rollouts import chat, sample_of

TINY_BASE = Path(__file__).parents[1] / ".headway-cache" / "tiny-arith"
Reward = Callable[[Problem, str | None], float]


@dataclass(frozen=True, slots=True)
class Shape:
    """One step is `groups` problems × `group_size` answers; a score is over `held_out` answers, as they are sampled."""

    steps: int = 12
    groups: int = 16
    group_size: int = 8
    held_out: int = 256
    eval_every: int = 4
    learning_rate: float = 1e-3
    max_tokens: int = 6


class Trainee:
    """A fork of `source_id` (None: of the base) on the box."""

    def __init__(
        self, box: Box, name: str, reward: Reward, shape: Shape, seed: int, source_id: str | None = None
    ) -> None:
        self.id = box.fork(name, source_id)
        self._box, self._name, self._reward, self._shape = box, name, reward, shape
        self._rng = random.Random(seed)

    def step(self) -> tuple[float, float]:
        """Roll out, train, step; the mean reward, and the mean length in tokens."""
        training, _ = split_problems()
        problems = self._rng.sample(training, self._shape.groups)
        choices = self._sample(problems, self._shape.group_size)
        inputs = [
            {"samples": [sample_of(choice)], "reward": self._reward(problem, choice["message"]["content"])}
            for problem, group in zip(problems, choices, strict=True)
            for choice in group
        ]
        self._train(inputs, self._shape.learning_rate, group_size=self._shape.group_size)
        lengths = [len(one["samples"][0]["output_token_ids"]) for one in inputs]
        return fmean(one["reward"] for one in inputs), fmean(lengths)

    def score(self) -> float:
        """Score held-out problems, and post it."""
        _, held_out = split_problems()
        each = 4
        problems = random.Random(0).sample(held_out, self._shape.held_out // each)
        groups = zip(problems, self._sample(problems, each), strict=True)
        values = [score(problem, choice["message"]["content"]) for problem, group in groups for choice in group]
        body = {"benchmark": "held-out sums", "score": fmean(values), "n": len(values)}
        body["stderr"] = pstdev(values) / len(values) ** 0.5
        self._box.call("POST", f"/v2/models/{self.id}/evals", body)
        return fmean(values)

    def imitate(self, say: Callable[[Problem, random.Random], str], num_steps: int, learning_rate: float) -> None:
        """Teach it to answer as `say` does, by cross entropy."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(TINY_BASE)
        training, _ = split_problems()
        for _ in range(num_steps):
            inputs = list[dict[str, Any]]()
            for problem in self._rng.sample(training, 64):
                asked = [{"role": "user", "content": problem.prompt}]
                prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
                output = [*tokenizer.encode(say(problem, self._rng)), tokenizer.eos_token_id]
                inputs.append({"samples": [{"prompt_token_ids": prompt, "output_token_ids": output}], "reward": 1.0})
            self._train(inputs, learning_rate, loss_fn="cross_entropy")

    def _train(self, inputs: Sequence[dict[str, Any]], learning_rate: float, **options: Any) -> None:
        train = f"/v1/models/{self.id}/train"
        self._box.call("POST", f"{train}/forward-backward", {"inputs": inputs, **options})
        self._box.call("POST", f"{train}/optim-step", {"learning_rate": learning_rate})

    def _sample(self, problems: Sequence[Problem], n: int) -> list[list[dict[str, Any]]]:
        seeds = [self._rng.randrange(2**31) for _ in problems]

        def ask(problem: Problem, seed: int) -> list[dict[str, Any]]:
            body = {"n": n, "seed": seed, "max_tokens": self._shape.max_tokens}
            return chat(self._box, self._name, problem.prompt, **body)["choices"]

        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(ask, problems, seeds))
