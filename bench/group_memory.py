"""How much memory the step of one group takes, by variant."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from transformers import Qwen3Config

from bench import baselines, block_diagonal
from bench.batches import Shape
from bench.clock import say
from bench.memory import peak_bytes
from bench.policies import make_policies
from bench.step_time import MERGED, NAIVE, OURS, PACKED


def measure_memory(config: Qwen3Config, shape: Shape, naive_rows_at_once: int | None) -> dict[str, int]:
    """Peak bytes above the model. naive_rows_at_once: of (a), None for the whole group; all others take a group at
    once. Gradient buffers, which all variants have, are allocated before."""
    block_diagonal.register()
    one_group = replace(shape, num_groups=1)
    num_rows = shape.group_size * shape.num_turns
    with tempfile.TemporaryDirectory() as folder:
        policies = make_policies(config, Path(folder) / "policies")
        batch = policies.batch(one_group, seed=0)
        stock, packing = policies.stock(), policies.stock(block_diagonal.IMPLEMENTATION)
        steps = {
            NAIVE: baselines.a_row_a_turn(stock, batch, naive_rows_at_once or num_rows),
            MERGED: baselines.merged(stock, batch, shape.group_size),
            PACKED: baselines.packed(packing, batch, shape.group_size),
            OURS: lambda: policies.ours(batch),
        }
        for policy in (stock, packing):
            baselines.gradients(policy, lambda: None)
        peaks = {}
        for name, step in steps.items():
            peaks[name] = peak_bytes(step)
            say(f"  {name}: {peaks[name] / 2**20:.0f} MiB")
    return peaks
