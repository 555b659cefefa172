"""A server that splits the base over two ranks, each a process: on a CPU they exchange through shared memory, but load
adapters, map them to requests and gather logits by the code that GPUs run."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from sampler.backends.vllm.backend import VllmBackend
from sampler.backends.vllm.settings import VllmSettings
from tests.ports.lora_parts import PARTS, PROMPTS, Policies, differences, load_policies, served
from tests.ports.sampler_backends import ask_backend
from tests.vllm.conftest import START_TIMEOUT_S, SaveTrained
from wire.errors import CorruptCheckpoint
from wire.sampling import ScoreRequest

pytestmark = pytest.mark.vllm


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def wide(base: Path) -> AsyncIterator[VllmBackend]:
    settings = VllmSettings(seed=0, start_timeout_s=START_TIMEOUT_S, stalled_s=600.0, tensor_parallel=2)
    backend = await asyncio.to_thread(VllmBackend, str(base), settings)
    yield backend
    await backend.close()


async def test_two_ranks_sample_what_the_trainer_computes_under_adapters_on_any_part(
    wide: VllmBackend, base: Path, tmp_path: Path
):
    policies = Policies(base, tmp_path)
    await asyncio.to_thread(load_policies, wide, policies)
    found = await differences(wide, policies)
    print({name: f"{nats:.2g}" for name, nats in found.items()})
    assert found.keys() == {*PARTS, "base"}
    assert max(found.values()) < 1e-4, found
    for name in ("everything", "attention", "base"):
        answer = await ask_backend(wide, PROMPTS[0], adapter=served(name), seed=3, max_tokens=12, ignore_eos=True)
        ids = [*PROMPTS[0], *answer.ids]
        scores = await wide.score(ScoreRequest(adapter=served(name), prompt_token_ids=ids))
        assert scores.logprobs[-12:] == pytest.approx(answer.logprobs, abs=1e-4)
    assert ", 2 ranks, " in str(wide.details.engine)


def test_two_ranks_refuse_an_adapter_that_is_not_what_the_trainer_saved(
    wide: VllmBackend, save_trained: SaveTrained, tmp_path: Path
):
    one, other = save_trained(tmp_path / "one", 3), save_trained(tmp_path / "other", 4)
    shutil.copyfile(one / "adapter_model.safetensors", other / "adapter_model.safetensors")
    with pytest.raises(CorruptCheckpoint, match="not what was saved"):
        wide.load_adapter("mixed-up", other)
    wide.load_adapter("mixed-up", one)
    wide.unload_adapter("mixed-up")
