"""One real vLLM for the whole session, in front of the fixtures that the local backend is tested with; a whole box has
it, too."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch

from sampler.backends.vllm.backend import VllmBackend
from sampler.backends.vllm.settings import VllmSettings
from tests.conftest import database_folder
from tests.e2e.box import Box
from tests.ports.sampler_backends import Sampler, load_all
from tests.unit.sampler import conftest as local
from trainer.engine.base_model import BaseModel, load_base_model
from trainer.engine.engine import TrainingEngine
from wire.engine import LoraConfig

tokenizer, adapters, reference, ask, ask_on = local.tokenizer, local.adapters, local.reference, local.ask, local.ask_on

SaveTrained = Callable[[Path, int], Path]

START_TIMEOUT_S = 1800.0
"""For vLLM on a machine that does other things as well; alone it takes 35 s."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever comes first waits for vLLM, and who kills it comes last: the box does not follow it to its new port."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(2 * START_TIMEOUT_S))
    items.sort(key=lambda item: item.get_closest_marker("kills_vllm") is not None)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The local backend's base; vLLM's attention on a CPU wants wider heads."""
    path = tmp_path_factory.mktemp("base")
    local.save_base(path, head_dim=32)
    return path


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def backend(base: Path, adapters: dict[str, Path]) -> AsyncIterator[VllmBackend]:
    settings = VllmSettings(seed=0, start_timeout_s=START_TIMEOUT_S, stalled_s=600.0)
    backend = await asyncio.to_thread(VllmBackend, str(base), settings)
    try:
        await asyncio.to_thread(load_all, backend, adapters)
        yield backend
    finally:
        await backend.close()


@pytest.fixture(scope="session")
def sampler(backend: VllmBackend, base: Path, adapters: dict[str, Path]) -> Sampler:
    """For the suite of the port; the other one attaches to the same server."""

    def open_another() -> VllmBackend:
        return VllmBackend(str(base), VllmSettings(seed=0, url=backend._server.url))

    return Sampler(backend, adapters, "<|im_end|>", open_another, ends_requests=False)


@pytest.fixture(scope="module")
def box(backend: VllmBackend, base: Path) -> Iterator[Box]:
    """`headway up` on that base, whose sampler attaches to the session's vLLM, and takes it over again when somebody
    else has attached: hence not for longer than one file's tests."""
    with database_folder() as folder, pytest.MonkeyPatch.context() as environment:
        environment.setenv("HEADWAY_VLLM_URL", backend._server.url)
        environment.setenv("HEADWAY_SAMPLER_LINGER_S", "2")
        box = Box(folder / "data", base, "--sampler-backend", "vllm", start_timeout_s=START_TIMEOUT_S)
        try:
            yield box.start()
        finally:
            if box.process is not None:
                box.stop()


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
        engine.snapshot(model).write(adapter, state)
        engine.close(model)
        return adapter

    return save
