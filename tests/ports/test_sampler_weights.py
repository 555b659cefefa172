"""What a sampler computes with the weights of a base and of adapters, and which weights it refuses: one suite for the
backends that have weights. `reference` is transformers' own model with PEFT's own adapter."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from wire.errors import CorruptCheckpoint, InvalidRequest
from wire.sampling import ScoreRequest

MIX: list[dict[str, Any]] = [
    {"adapter": "base"},
    {"adapter": "all-targets"},
    {"adapter": "all-targets", "temperature": 0.6},
    {"adapter": "attention-only", "temperature": 1.7, "top_k": 7},
    {"adapter": "attention-only", "top_p": 0.8},
    {"adapter": "rslora-and-head", "temperature": 0.8, "top_k": 40, "top_p": 0.9},
    {"adapter": "rslora-and-head", "min_tokens": 30},
    {"adapter": "base", "temperature": 0.0},
]


def prompt_of(index: int) -> list[int]:
    return [(17 * index + 5 * n) % 250 for n in range(1 + 9 * index)]


def expected_logprobs(model: Any, prompt: list[int], ids: list[int], params: dict[str, Any]) -> list[float]:
    """The processed distribution, worked out the plain way in float64, a position at a time."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].double()
    rows = zip(logits, ids, strict=True)
    return [float(processed(row, position, params)[token]) for position, (row, token) in enumerate(rows)]


def processed(logits: torch.Tensor, position: int, params: dict[str, Any]) -> torch.Tensor:
    if position < params.get("min_tokens", 0):
        logits[259] = -math.inf
    logprobs = (logits / (params.get("temperature", 1.0) or 1.0)).log_softmax(-1)
    order = logprobs.argsort(descending=True)
    kept = order[: params.get("top_k") or len(order)]
    renormalized = logprobs[kept].softmax(-1)
    before = renormalized.cumsum(-1) - renormalized
    kept = kept[before < params.get("top_p", 1.0)]
    result = torch.full_like(logprobs, -math.inf)
    result[kept] = logprobs[kept].log_softmax(-1)
    return result


async def test_logprobs_are_those_of_a_full_forward_for_any_mix_in_one_batch(ask, reference, tokenizer):
    assert tokenizer.eos_token_id == 259
    requests = [
        ask(prompt_of(index), **params, seed=index, max_tokens=40, ignore_eos="min_tokens" not in params)
        for index, params in enumerate(MIX)
    ]
    for index, (params, answer) in enumerate(zip(MIX, await asyncio.gather(*requests), strict=True)):
        expected = expected_logprobs(reference(params["adapter"]), prompt_of(index), answer.ids, params)
        assert len(answer.ids) >= 30
        assert answer.logprobs == pytest.approx(expected, abs=1e-5), params


@pytest.mark.parametrize("adapter", ["base", "all-targets", "attention-only", "rslora-and-head"])
async def test_scores_are_those_of_a_forward_pass(backend, reference, adapter):
    ids = prompt_of(5) + prompt_of(3) + prompt_of(8)
    scores = await backend.score(ScoreRequest(adapter=adapter, prompt_token_ids=ids, top_logprobs=6))
    with torch.inference_mode():
        logprobs = reference(adapter)(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    own = logprobs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    assert scores.logprobs == pytest.approx(own.tolist(), abs=1e-5)
    values, top_ids = logprobs.topk(6)
    assert scores.top_ids == top_ids.tolist()
    assert torch.tensor(scores.top_logprobs).allclose(values, atol=1e-5)


@pytest.mark.parametrize("adapter", ["base", "all-targets"])
async def test_greedy_tokens_are_those_of_generate(ask, reference, adapter):
    prompt = prompt_of(3)
    ids = reference(adapter).generate(torch.tensor([prompt]), max_new_tokens=50, do_sample=False, pad_token_id=0)
    answer = await ask(prompt, adapter=adapter, temperature=0.0, max_tokens=50)
    assert prompt + answer.ids == ids[0].tolist()


async def test_top_logprobs_are_the_most_likely_tokens_and_leave_out_what_cannot_be_drawn(ask, reference):
    free, narrow = await asyncio.gather(
        ask(prompt_of(2), max_tokens=3, seed=1, top_logprobs=20),
        ask(prompt_of(2), max_tokens=3, seed=1, top_logprobs=20, top_k=4),
    )
    with torch.inference_mode():
        logprobs = reference("base")(input_ids=torch.tensor([prompt_of(2)])).logits[0, -1].log_softmax(-1)
    values, ids = logprobs.topk(20)
    assert [top.token_id for top in free.tokens.top_logprobs[0]] == ids.tolist()
    assert [top.logprob for top in free.tokens.top_logprobs[0]] == pytest.approx(values.tolist(), abs=1e-5)
    assert [len(tops) for tops in narrow.tokens.top_logprobs] == [4, 4, 4]


async def test_a_zero_adapter_is_the_base_beside_any_other(ask, backend):
    backend.load_adapter("another-zero", None)
    alone = await ask(prompt_of(4), adapter="another-zero", seed=5, max_tokens=30)
    together = await asyncio.gather(
        *(ask(prompt_of(4), adapter=name, seed=5, max_tokens=30) for name in ("all-targets", "base", "another-zero"))
    )
    assert together[1].ids == together[2].ids == alone.ids
    assert together[1].logprobs == pytest.approx(alone.logprobs, abs=2e-6)
    assert together[0].ids != alone.ids


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
