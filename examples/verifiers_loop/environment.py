"""Two-digit sums as an environment of the verifiers library: a dataset, a rubric, one turn. Nothing of Headway's."""

from __future__ import annotations

import random
from typing import Any

import verifiers as vf
from datasets import Dataset


def load_environment(num_problems: int = 64, seed: int = 0) -> vf.Environment:
    """As the library's own command line loads environments."""
    rng = random.Random(seed)
    pairs = [(rng.randint(10, 39), rng.randint(10, 39)) for _ in range(num_problems)]
    rows = [{"prompt": [{"role": "user", "content": f"{a}+{b}=?"}], "answer": str(a + b)} for a, b in pairs]
    return vf.SingleTurnEnv(dataset=Dataset.from_list(rows), rubric=vf.Rubric(funcs=[is_right]))


def is_right(completion: list[Any], answer: str) -> float:
    """1.0 for exactly the right number. An answer without a word is no completion at all."""
    said = str(completion[-1]["content"] or "") if completion else ""
    return float(said.strip() == answer)
