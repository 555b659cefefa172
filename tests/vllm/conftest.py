"""One real vLLM for the whole session, in front of the fixtures that the local backend is tested with."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch

from sampler.backends.vllm import VllmBackend, VllmSettings
from tests.unit.sampler import conftest as local
from trainer.base_model import BaseModel, load_base_model
from trainer.engine import TrainingEngine
from wire.engine import LoraConfig

tokenizer, adapters, reference, ask, ask_on = local.tokenizer, local.adapters, local.reference, local.ask, local.ask_on

SaveTrained = Callable[[Path, int], Path]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The local backend's base; vLLM's attention on a CPU wants wider heads."""
    path = tmp_path_factory.mktemp("base")
    local.save_base(path, head_dim=32)
    return path


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def backend(base: Path, adapters: dict[str, Path]) -> AsyncIterator[VllmBackend]:
    backend = await asyncio.to_thread(VllmBackend, str(base), VllmSettings(seed=0))
    try:
        await asyncio.to_thread(load_all, backend, adapters)
        yield backend
    finally:
        await backend.close()


def load_all(backend: VllmBackend, adapters: dict[str, Path]) -> None:
    """What a sampler of these tests holds."""
    backend.load_adapter("base", None)
    for name, folder in adapters.items():
        backend.load_adapter(name, folder)


@pytest.fixture(scope="session")
def trainer_base(base: Path) -> BaseModel:
    return load_base_model(str(base))


@pytest.fixture(scope="session")
def save_trained(trainer_base: BaseModel) -> SaveTrained:
    """A checkpoint's adapter folder as the trainer writes it, with weights that a seed decides."""

    def save(folder: Path, seed: int) -> Path:
        engine, model = TrainingEngine(trainer_base), uuid.uuid4()
        engine.open(model, LoraConfig(rank=4, alpha=8, init_seed=seed), None, None)
        weights: Any = engine._sessions.get(model).weights
        weights.normal_(std=0.15, generator=torch.Generator().manual_seed(seed))
        adapter, state = folder / "adapter", folder / "state"
        adapter.mkdir(parents=True)
        state.mkdir()
        engine.save(model, adapter, state)
        engine.close(model)
        return adapter

    return save
