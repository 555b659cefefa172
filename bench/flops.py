"""How much of the machine's matrix product the engine turns into work that had to be done.

Useful work is counted on unique tokens (each node of a group's prefix tree once), with a frozen base and LoRA on it:

    base linears   2·P forward + 2·P backward a token (gradients of activations only: no base weight has one)
    LoRA           2·L forward + 4·L backward a token
    attention      4·D forward + 8·D backward a layer, and a pair of a token and one it sees (D = heads · head size)
    unembedding    2·V·H forward + 2·V·H backward an action token

P: parameters of the base's linear layers without the unembedding, L: of LoRA, V: vocabulary, H: hidden size. Norms,
softmax, rotary embeddings and anything computed twice count as nothing.
"""

from __future__ import annotations

import statistics
import time

import torch
from transformers import Qwen3Config

from bench.batches import TokenCounts
from wire.engine import LoraConfig


def useful_flops(config: Qwen3Config, lora: LoraConfig, counts: TokenCounts) -> float:
    """Of one forward and backward."""
    shapes = _linear_shapes(config)
    base = config.num_hidden_layers * sum(inputs * outputs for inputs, outputs in shapes)
    adapter = config.num_hidden_layers * lora.rank * sum(inputs + outputs for inputs, outputs in shapes)
    attention = 12 * config.num_attention_heads * config.head_dim * config.num_hidden_layers * counts.unique_pairs
    unembedding = 4 * config.vocab_size * config.hidden_size * counts.actions
    return (4 * base + 6 * adapter) * counts.unique + attention + unembedding


def matmul_flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """Of a large square product, the median of some: what this device (or one thread of this CPU) reaches."""
    size = 8192 if device.type == "cuda" else 1536
    one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = [_seconds(one, other) for _ in range(12)][2:]
    return 2 * size**3 / statistics.median(seconds)


def _seconds(one: torch.Tensor, other: torch.Tensor) -> float:
    on_cuda = one.device.type == "cuda"
    clock = time.perf_counter if on_cuda else time.process_time
    if on_cuda:
        torch.cuda.synchronize()
    started = clock()
    one @ other
    if on_cuda:
        torch.cuda.synchronize()
    return clock() - started


def _linear_shapes(config: Qwen3Config) -> list[tuple[int, int]]:
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = (config.head_dim * n for n in (config.num_attention_heads, config.num_key_value_heads))
    attention = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    return [*attention, (hidden, inner), (hidden, inner), (inner, hidden)]
