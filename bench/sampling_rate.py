"""Tokens a second of the local sampler, beside `generate` of transformers and the bare matrix products of the same
call."""

# N sequences, P tokens of a prompt, K tokens sampled

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from bench.clock import alternate, wall_s
from bench.peers.workloads import token_logprobs
from sampler.backends.local import LocalBackend
from sampler.backends.local.packed_linears import pack_linears
from wire.sampling import GenerateRequest, SamplingParams

OURS, ADAPTED, GENERATE, PRODUCTS = "sampler", "under an adapter", "generate", "products alone"
MAX_LOGPROB_ERROR = 1e-3
_BASE, _ADAPTER = "base", "adapter"


@dataclass(frozen=True, slots=True)
class Lengths:
    """Of each prompt, and of each answer; no answer ends early."""

    prompt: int = 32
    answer: int = 32


def sampling_seconds(
    base: Path, adapter: Path, sequences: int, lengths: Lengths, rounds: int, backend: LocalBackend
) -> Mapping[str, list[float]]:
    """Wall seconds of `sequences` answers to prompts that share nothing, by who samples them, an entry a round.

    Raises AssertionError if a sampled token's logprob is not what transformers gives it.
    """
    for name, folder in ((_BASE, None), (_ADAPTER, adapter)):
        if name not in backend.loaded():
            backend.load_adapter(name, folder)
    plain, packed = (AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval() for _ in range(2))
    pack_linears(packed.requires_grad_(False))
    prompts = random_prompts(plain.config.get_text_config().vocab_size, sequences, lengths.prompt)
    _check(plain, backend, prompts[0], lengths)
    ways = {
        OURS: lambda: sample(backend, _BASE, prompts, lengths.answer),
        ADAPTED: lambda: sample(backend, _ADAPTER, prompts, lengths.answer),
        GENERATE: lambda: _generate(plain, prompts, lengths.answer),
        PRODUCTS: lambda: _products(packed, sequences, lengths),
    }
    with torch.inference_mode():
        return {name: of[1:] for name, of in alternate(ways, rounds + 1, wall_s).items()}


def random_prompts(vocab_size: int, number: int, length: int) -> list[list[int]]:
    """That share nothing but by accident."""
    return np.random.default_rng(0).integers(3, vocab_size, (number, length)).tolist()


def sample(
    backend: LocalBackend, adapter: str, prompts: Sequence[list[int]], answer: int
) -> list[tuple[list[int], list[float]]]:
    """Ids and logprobs of the answer to each prompt, all asked for at once."""

    async def one(index: int, prompt: list[int]) -> tuple[list[int], list[float]]:
        params = SamplingParams(max_tokens=answer, ignore_eos=True, seed=index)
        request = GenerateRequest(adapter=adapter, prompt_token_ids=prompt, params=params)
        tokens = [event.tokens async for event in backend.generate(request)]
        return [id_ for part in tokens for id_ in part.ids], [value for part in tokens for value in part.logprobs]

    async def all_at_once() -> list[tuple[list[int], list[float]]]:
        return await asyncio.gather(*(one(*pair) for pair in enumerate(prompts)))

    return asyncio.run(all_at_once())


def _check(plain: PreTrainedModel, backend: LocalBackend, prompt: list[int], lengths: Lengths) -> None:
    ((ids, logprobs),) = sample(backend, _BASE, [prompt], lengths.answer)
    with torch.inference_mode():
        expected = token_logprobs(plain, torch.tensor([*prompt, *ids]))[-len(ids) :]
    error = float((torch.tensor(logprobs) - expected).abs().max())
    assert error <= MAX_LOGPROB_ERROR, f"the sampler's logprobs are off by {error:.1e}"


def _generate(model: PreTrainedModel, prompts: Sequence[list[int]], answer: int) -> None:
    ids_NP = torch.tensor(prompts)
    limits = {"max_new_tokens": answer, "min_new_tokens": answer}
    found = model.generate(  # pyright: ignore[reportCallIssue]  # its stubs know no tensors
        input_ids=ids_NP, attention_mask=torch.ones_like(ids_NP), do_sample=True, top_k=0, pad_token_id=0, **limits
    )
    assert found.shape[1] == ids_NP.shape[1] + answer


def _products(model: PreTrainedModel, sequences: int, lengths: Lengths) -> None:
    """Of all linear layers, packed as the sampler's are: once over the prompts, then a row a sequence; of the head, a
    row a sequence each time."""
    head: Any = model.get_output_embeddings()
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    for rows in [sequences * lengths.prompt, *[sequences] * (lengths.answer - 1)]:
        for linear in layers:
            linear(torch.ones(rows, linear.in_features))
        head(torch.ones(sequences, head.in_features))
