"""Adapters come and go while others run; what is not understood is refused."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from wire.errors import Conflict, CorruptCheckpoint, HeadwayError, InvalidRequest, NotFound

PROMPT = [9, 8, 7]


async def test_loads_and_unloads_change_nothing_for_what_runs(backend, ask, adapters: dict[str, Path]):
    names = ["base", "all-targets", "attention-only", "rslora-and-head"]
    quiet = [await ask(PROMPT, adapter=name, seed=1, max_tokens=150, ignore_eos=True) for name in names]
    requests = [ask(PROMPT, adapter=name, seed=1, max_tokens=150, ignore_eos=True) for name in names]
    running = [asyncio.ensure_future(request) for request in requests]
    for number in range(12):
        await asyncio.to_thread(backend.load_adapter, f"passing-{number}", adapters["all-targets"])
        await ask(PROMPT, adapter=f"passing-{number}", max_tokens=2)
        backend.unload_adapter(f"passing-{number}")
    assert [answer.ids for answer in await asyncio.gather(*running)] == [answer.ids for answer in quiet]


async def test_an_unloaded_adapter_serves_its_requests_to_the_end_and_no_new_ones(backend, ask, adapters, tmp_path):
    folder = tmp_path / "adapter"
    shutil.copytree(adapters["all-targets"], folder)
    backend.load_adapter("leaving", folder)
    expected = await ask(PROMPT, adapter="all-targets", seed=2, max_tokens=200, ignore_eos=True)
    running = asyncio.ensure_future(ask(PROMPT, adapter="leaving", seed=2, max_tokens=200, ignore_eos=True))
    await asyncio.sleep(0.02)
    backend.unload_adapter("leaving")
    shutil.rmtree(folder)
    assert "leaving" not in backend.loaded()
    with pytest.raises(NotFound, match="leaving"):
        await ask(PROMPT, adapter="leaving")
    assert (await running).ids == expected.ids


def test_a_name_is_never_given_other_weights(backend, adapters):
    with pytest.raises(Conflict):
        backend.load_adapter("all-targets", adapters["attention-only"])
    with pytest.raises(Conflict):
        backend.load_adapter("base", None)


def test_unloading_an_unknown_name_is_fine(backend):
    backend.unload_adapter("never-heard-of")


def test_a_missing_folder_is_not_found(backend, tmp_path):
    with pytest.raises(NotFound):
        backend.load_adapter("nowhere", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        ({"use_dora": True}, InvalidRequest, "use_dora"),
        ({"bias": "lora_only"}, InvalidRequest, "bias"),
        ({"modules_to_save": ["lm_head"]}, InvalidRequest, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 8}}, InvalidRequest, "rank_pattern"),
        ({"peft_type": "IA3"}, InvalidRequest, "IA3"),
        ({"r": 5}, CorruptCheckpoint, "shapes"),
        ({"r": 0}, CorruptCheckpoint, "r > 0"),
        ({"target_modules": ["q_proj", "k_proj", "v_proj"]}, CorruptCheckpoint, "k_proj has no weights"),
    ],
)
def test_a_configuration_that_is_not_supported_is_refused_by_name(backend, adapters, tmp_path, change, error, reason):
    shutil.copytree(adapters["attention-only"], tmp_path, dirs_exist_ok=True)
    config_file = tmp_path / "adapter_config.json"
    config_file.write_text(json.dumps(json.loads(config_file.read_text()) | change))
    with pytest.raises(error, match=reason):
        backend.load_adapter("refused", tmp_path)
    assert "refused" not in backend.loaded()


@pytest.mark.parametrize(
    ("key", "error"),
    [
        ("base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight", CorruptCheckpoint),
        ("base_model.model.model.embed_tokens.lora_embedding_A", InvalidRequest),
        ("base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight", CorruptCheckpoint),
    ],
)
def test_weights_that_do_not_fit_the_base_are_refused(backend, adapters, tmp_path, key, error):
    shutil.copytree(adapters["attention-only"], tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    save_file({**weights, key: torch.zeros(8, 48)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(error):
        backend.load_adapter("refused", tmp_path)


def test_truncated_or_infinite_weights_are_corrupt(backend, adapters, tmp_path):
    shutil.copytree(adapters["attention-only"], tmp_path, dirs_exist_ok=True)
    file = tmp_path / "adapter_model.safetensors"
    weights = load_file(file)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(CorruptCheckpoint):
        backend.load_adapter("refused", tmp_path)
    save_file({name: torch.full_like(weight, torch.inf) for name, weight in weights.items()}, file)
    with pytest.raises(CorruptCheckpoint, match="not finite"):
        backend.load_adapter("refused", tmp_path)


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
