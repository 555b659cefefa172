"""One policy for every variant: our engine, and PEFT over an equal base with the adapter that the engine saved.

Only the engine's public calls and its files are used. LoRA's B is random: at its start of zero, A has no gradient,
and errors in it would not show.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, PreTrainedModel, Qwen3Config

from bench.batches import Shape, near_policy, random_batch
from bench.models import build_model
from trainer.engine.base_model import BaseModel, load_base_model
from trainer.engine.engine import EngineSettings, TrainingEngine
from trainer.engine.vision.families import loader_of
from wire.conversion import to_datums
from wire.engine import NO_PICTURES, AdamParams, LoraConfig, LossChoice, Pictures
from wire.trajectories import Batch

MODEL = UUID(int=1)
LOSS = LossChoice("ppo")
_WEIGHTS = "adapter_model.safetensors"

Gradients = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Policies:
    """folder: holds the adapter, in PEFT's layout. base: of a base that is loaded, the folder; None: one is made."""

    config: Qwen3Config
    engine: TrainingEngine
    folder: Path
    lora: LoraConfig
    device: str
    dtype: torch.dtype
    base: Path | None = None

    def batch(self, shape: Shape, seed: int) -> Batch:
        """A random batch whose sampling logprobs lie near the policy's."""
        return self.near(random_batch(shape, self.config.vocab_size, seed), seed)

    def near(self, batch: Batch, seed: int, pictures: Pictures = NO_PICTURES) -> Batch:
        """The batch, with sampling logprobs near the policy's."""
        scored = self.engine.forward(MODEL, to_datums(batch), pictures=pictures)
        return near_policy(batch, [datum.logprobs[datum.mask > 0].astype(np.float32) for datum in scored], seed)

    def stock(self, attention: str = "sdpa") -> PeftModel:
        """PEFT over a base of the same weights."""
        base = build_model(self.config, self.device, self.dtype) if self.base is None else _load_base(self.base)
        base.set_attn_implementation(attention)
        return PeftModel.from_pretrained(base, self.folder, is_trainable=True, autocast_adapter_dtype=False)

    def ours(self, batch: Batch, pictures: Pictures = NO_PICTURES) -> None:
        """The step that is measured."""
        self.engine.forward_backward(MODEL, to_datums(batch), LOSS, pictures=pictures)

    def our_gradients(self, batch: Batch, pictures: Pictures = NO_PICTURES) -> Gradients:
        """What forward_backward accumulates, from a clean start, read where a first step leaves it: with β₁ = 0 the
        first moment that is saved is the gradient itself."""
        self.engine.open(MODEL, self.lora, self.folder, None)
        self.ours(batch, pictures)
        self.engine.optim_step(MODEL, AdamParams(learning_rate=1e-6, beta1=0.0))
        with tempfile.TemporaryDirectory() as folder:
            state = _saved(self.engine, Path(folder)) / "state" / "state.safetensors"
            with safe_open(state, framework="pt") as file:
                layout = json.loads(file.metadata()["headway"])["layout"]
                flat = file.get_tensor("exp_avg")
        self.engine.open(MODEL, self.lora, self.folder, None)
        parts = flat.split([rows * columns for _, rows, columns in layout])
        return {name: part.view(*shape) for (name, *shape), part in zip(layout, parts, strict=True)}


def make_policies(
    config: Qwen3Config,
    folder: Path,
    lora: LoraConfig | None = None,
    settings: EngineSettings | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Policies:
    """Everything with one random adapter, which is written under `folder`."""
    lora = lora or LoraConfig()
    engine = TrainingEngine(BaseModel(build_model(config, device, dtype)), settings or EngineSettings(threads=1))
    return Policies(config, engine, _random_adapter(engine, lora, folder), lora, device, dtype)


def load_policies(base: Path, folder: Path, lora: LoraConfig, settings: EngineSettings) -> Policies:
    """As `make_policies`, of a base in a folder, on the CPU."""
    engine = TrainingEngine(load_base_model(str(base)), settings)
    config: Any = AutoConfig.from_pretrained(base)  # of a Llama, the fields that are read here are the same
    return Policies(config, engine, _random_adapter(engine, lora, folder), lora, "cpu", torch.float32, base)


def _random_adapter(engine: TrainingEngine, lora: LoraConfig, folder: Path) -> Path:
    engine.open(MODEL, lora, None, None)
    adapter = _saved(engine, folder) / "adapter"
    _randomise_b(adapter / _WEIGHTS)
    engine.open(MODEL, lora, adapter, None)
    return adapter


def _load_base(base: Path) -> PreTrainedModel:
    loader = loader_of(AutoConfig.from_pretrained(base))
    return loader.from_pretrained(base, dtype=torch.float32).eval()


def _randomise_b(path: Path) -> None:
    """Normal entries, small enough that the policy stays near its base."""
    generator = torch.Generator().manual_seed(1)
    tensors = load_file(path)
    for name in sorted(tensors):
        if ".lora_B." in name:
            tensors[name] = (torch.randn(tensors[name].shape, generator=generator) * 0.02).to(tensors[name].dtype)
    save_file(tensors, path, metadata={"format": "pt"})


def _saved(engine: TrainingEngine, folder: Path) -> Path:
    for part in ("adapter", "state"):
        (folder / part).mkdir(parents=True)
    engine.snapshot(MODEL).write(folder / "adapter", folder / "state")
    return folder
