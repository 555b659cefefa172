"""What the local sampler reports is what transformers and PEFT compute for the same tokens."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest
import torch

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


async def test_a_sliding_window_is_honoured(open_backend, ask_on, tmp_path: Path):
    from transformers import AutoModelForCausalLM

    from tests.unit.sampler.conftest import save_base

    save_base(tmp_path, sliding_window=6, use_sliding_window=True, max_window_layers=1)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert set(model.config.layer_types) == {"full_attention", "sliding_attention"}
    backend = open_backend(tmp_path)
    for prompt in (prompt_of(0), prompt_of(3)):
        answer = await ask_on(backend, prompt, max_tokens=20, seed=1, ignore_eos=True)
        expected = expected_logprobs(model, prompt, answer.ids, {})
        assert answer.logprobs == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"layer_types": ["full_attention", "chunked_attention"]}, "chunked_attention"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}, "dynamic"),
    ],
)
def test_a_base_that_would_be_computed_wrongly_is_refused_by_name(open_backend, tmp_path: Path, config, reason):
    from tests.unit.sampler.conftest import save_base

    try:
        save_base(tmp_path, **config)
    except Exception as error:
        pytest.skip(f"transformers itself refuses: {error}")
    with pytest.raises(ValueError, match=reason):
        open_backend(tmp_path)
