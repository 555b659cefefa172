"""An adapter that overflows the local sampler."""

from __future__ import annotations

import asyncio
import shutil

import torch
from safetensors.torch import load_file, save_file

from wire.errors import HeadwayError

PROMPT = [9, 8, 7]


async def test_an_adapter_that_overflows_fails_its_requests_alone(open_backend, ask_on, adapters, tmp_path):
    backend = open_backend()
    shutil.copytree(adapters["all-targets"], tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    huge = {name: torch.full_like(weight, 1e30) for name, weight in weights.items()}
    save_file(huge, tmp_path / "adapter_model.safetensors")
    backend.load_adapter("overflowing", tmp_path)
    alone = await ask_on(backend, PROMPT, seed=4, max_tokens=30, ignore_eos=True)
    for _ in range(2):
        failed, beside = await asyncio.gather(
            ask_on(backend, PROMPT, adapter="overflowing"),
            ask_on(backend, PROMPT, seed=4, max_tokens=30, ignore_eos=True),
            return_exceptions=True,
        )
        assert isinstance(failed, HeadwayError)
        assert "not finite" in failed.message
        assert beside.ids == alone.ids
    assert (await ask_on(backend, PROMPT, seed=4, max_tokens=30, ignore_eos=True)).ids == alone.ids
