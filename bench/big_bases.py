"""The engine on bases of real size: unique tokens a second, and how much of the device's matrix product that is.

Weights are random, for only their shapes count here. The same code runs on a CPU with a tiny base, which is how a
machine without an accelerator tests it.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import torch
from transformers import Qwen3Config

from bench.batches import Shape, count_tokens
from bench.clock import step_seconds
from bench.flops import matmul_flops_per_s, useful_flops
from bench.memory import peak_bytes
from bench.policies import make_policies
from trainer.engine.engine import EngineSettings
from wire.engine import LoraConfig


def measure_base(
    config: Qwen3Config,
    shape: Shape,
    *,
    device: str,
    dtype: torch.dtype,
    rank: int = 32,
    max_tokens_per_pass: int = 8192,
    steps: int = 5,
) -> dict[str, float]:
    """Of forward_backward on one random batch. peak_gib is above the weights of the base."""
    lora, settings = LoraConfig(rank=rank, alpha=rank), EngineSettings(max_tokens_per_pass=max_tokens_per_pass)
    with tempfile.TemporaryDirectory() as folder:
        policies = make_policies(config, Path(folder) / "policies", lora, settings, device, dtype)
        batch = policies.batch(shape, seed=0)
        peak = peak_bytes(lambda: policies.ours(batch))  # a warm-up too
        seconds = statistics.median(step_seconds(lambda: policies.ours(batch)) for _ in range(steps))
    counts, peak_flops_per_s = count_tokens(batch), matmul_flops_per_s(torch.device(device), dtype)
    return {
        "unique_tokens": counts.unique,
        "seconds": seconds,
        "unique_tokens_per_s": counts.unique / seconds,
        "mfu": useful_flops(config, lora, counts) / seconds / peak_flops_per_s,
        "matmul_tflops_per_s": peak_flops_per_s / 1e12,
        "peak_gib": peak / 2**30,
    }
