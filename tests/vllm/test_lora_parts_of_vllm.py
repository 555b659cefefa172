"""vLLM serves whatever parts of a base an adapter changes: requests under adapters on the unembedding, beside others
and beside the base, draw from what the trainer computes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sampler.backends.vllm.backend import VllmBackend
from sampler.backends.vllm.settings import VllmSettings
from tests.ports.lora_parts import PARTS, Policies, differences, load_policies, served
from tests.unit.sampler.conftest import save_base
from tests.vllm.conftest import START_TIMEOUT_S

pytestmark = pytest.mark.vllm


async def check(backend: VllmBackend, policies: Policies) -> None:
    await asyncio.to_thread(load_policies, backend, policies)
    found = await differences(backend, policies)
    print({name: f"{nats:.2g}" for name, nats in found.items()})
    assert found.keys() == {*PARTS, "base"}
    assert max(found.values()) < 1e-4, found
    for name in policies.adapters:
        await asyncio.to_thread(backend.unload_adapter, served(name))


async def test_what_is_sampled_is_what_the_trainer_computes(backend: VllmBackend, base: Path, tmp_path: Path):
    await check(backend, Policies(base, tmp_path))


async def test_so_it_is_where_the_unembedding_is_tied_and_slots_are_few(tmp_path: Path):
    """Fewer slots than adapters: each is given to one adapter after the other."""
    save_base(tmp_path / "base", head_dim=32, tie_word_embeddings=True)
    settings = VllmSettings(seed=0, start_timeout_s=START_TIMEOUT_S, stalled_s=600.0, max_loras=3)
    backend = await asyncio.to_thread(VllmBackend, str(tmp_path / "base"), settings)
    try:
        policies = Policies(tmp_path / "base", tmp_path)
        for _ in range(2):
            await check(backend, policies)
    finally:
        await backend.close()
