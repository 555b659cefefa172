"""A short `bench.promotions_vllm`: promotions through the whole box, under clients that never stop asking."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import UUID

import pytest

from bench.footprint import adapters_in
from bench.promotion_check import check_answers
from bench.promotion_clients import promote_under_load
from sampler.backends.vllm.backend import VllmBackend
from tests.e2e.box import Box

pytestmark = pytest.mark.vllm
LIMIT = 1e-4


async def test_every_token_is_of_the_checkpoint_that_its_answer_names(box: Box, backend: VllmBackend, base: Path):
    key = box.env["HUD_API_KEY"]
    model_id, seen = await promote_under_load(box.url, key, "tiny-arith", 12, 8, lambda seen: None)
    assert not seen.errors
    assert seen.stale == 0
    assert len(seen.checkpoints) == 12
    folder = box.data_dir / "checkpoints" / UUID(model_id).hex
    adapters = {None: None, **{each: folder / UUID(each).hex / "adapter" for each in seen.checkpoints}}
    agreement = await asyncio.to_thread(check_answers, base, adapters, seen.answers, LIMIT)
    print(agreement)
    assert agreement.checkpoints >= 12
    assert agreement.over_limit == 0
    assert agreement.told_apart > 0.9, "a check that stale weights would pass is none"
    await until_only_the_head_is_left(backend._server.url, seen.checkpoints)


async def until_only_the_head_is_left(vllm_url: str, checkpoints: list[str]) -> None:
    """Of these checkpoints; and vLLM's files are those of what it has registered."""
    names = [f"hw-{UUID(checkpoint).hex}-" for checkpoint in checkpoints]
    async with asyncio.timeout(600):
        while True:
            adapters = await asyncio.to_thread(adapters_in, vllm_url)
            folders = {folder.name for folder in next(iter(adapters.values())).parent.iterdir()}
            kept = [name for name in names if any(adapter.startswith(name) for adapter in adapters)]
            if kept == names[-1:] and folders == set(adapters):
                return
            await asyncio.sleep(0.5)
