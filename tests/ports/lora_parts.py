"""Adapters of every choice of parts, as the trainer writes them: what a sampler draws from under each, all of them in
flight together, is what the trainer computes."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.ports.sampler_backends import Answer, ask_backend
from tests.unit.trainer.tiny import datum_of
from trainer.engine.base_model import load_base_model
from trainer.engine.engine import TrainingEngine
from wire.engine import LoraConfig, LossChoice

EVERYTHING = LoraConfig(rank=32, alpha=32, unembed=True)
"""What the Tinker SDK asks for unless it is asked otherwise."""
PARTS = {
    "everything": EVERYTHING,
    "everything else": replace(EVERYTHING, init_seed=1),
    "attention": LoraConfig(rank=8, alpha=32, mlp=False),
    "mlp": LoraConfig(rank=4, alpha=8, attn=False),
    "unembedding": LoraConfig(rank=16, alpha=32, attn=False, mlp=False, unembed=True),
    "attention and mlp": LoraConfig(rank=4, alpha=8),
}
PROMPTS = [[11, 12, 13, 14, 15], [7, 3], list(range(20, 41))]


class Policies:
    """The trainer of a base, with a model for each choice of parts, and for `base`, whose adapter changes nothing."""

    def __init__(self, base: Path, folder: Path) -> None:
        self.engine = TrainingEngine(load_base_model(str(base)))
        self.adapters: dict[str, Path | None] = {"base": None}
        self._models = {"base": uuid.uuid4()}
        self.engine.open(self._models["base"], LoraConfig(), None, None)
        for name, lora in PARTS.items():
            self._add(name, lora, folder / name.replace(" ", "-"))

    def difference(self, name: str, prompt: list[int], answer: Answer) -> float:
        """The largest, in nats, between the logprobs that came with an answer and the trainer's own."""
        datum = datum_of([*prompt, *answer.ids], len(prompt))
        (row,) = self.engine.evaluate(self._models[name], [datum], LossChoice("cross_entropy")).logprobs or ()
        return float(np.abs(row - np.array(answer.logprobs)).max())

    def _add(self, name: str, lora: LoraConfig, folder: Path) -> None:
        model = self._models[name] = uuid.uuid4()
        self.engine.open(model, lora, None, None)
        weights: Any = self.engine._sessions.get(model).weights
        std = 0.6 / lora.rank**0.5 * (lora.rank / lora.alpha) ** 0.5
        weights.normal_(std=std, generator=torch.Generator().manual_seed(lora.init_seed))
        adapter, state = folder / "adapter", folder / "state"
        adapter.mkdir(parents=True)
        state.mkdir()
        self.engine.snapshot(model).write(adapter, state)
        self.adapters[name] = adapter


async def differences(backend: Any, policies: Policies, rounds: int = 2) -> dict[str, float]:
    """The largest of each adapter, with requests under all of them in flight at once. Those of any other adapter would
    be far off."""
    asked = [(name, prompt, seed) for seed in range(rounds) for prompt in PROMPTS for name in policies.adapters]
    answers = await asyncio.gather(
        *(ask_backend(backend, p, adapter=served(n), seed=s, max_tokens=24, ignore_eos=True) for n, p, s in asked)
    )
    found: dict[str, float] = {}
    for (name, prompt, _), answer in zip(asked, answers, strict=True):
        found[name] = max(found.get(name, 0.0), policies.difference(name, prompt, answer))
        assert all(policies.difference(other, prompt, answer) > 0.1 for other in policies.adapters if other != name)
    return found


def load_policies(backend: Any, policies: Policies) -> None:
    """Under the names that `differences` asks for."""
    for name, adapter in policies.adapters.items():
        backend.load_adapter(served(name), adapter)


def served(name: str) -> str:
    """The name that an adapter is loaded under."""
    return f"parts-{name.replace(' ', '-')}"
