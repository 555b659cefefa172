"""What decides the last bits of an operation, beside the request and the weights: its plan.

Of a pass, how its batch is cut up: losses are sums, so that this decides nothing but rounding, and all of that. It is
kept in the operation's row, and a replay follows it: the same bits come out of a trainer with other settings. See
docs/decisions/0041.
"""

# D datums, M micro-batches, S shards

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from wire.payload import decode, encode
from wire.trajectories import Int32Array

_FORMAT = 1

FUSED_LORA, PEFT_LORA = "fused", "peft"
"""The forwards of adapted layers. Plans of versions that had PEFT's alone name none."""

TORCH_PRODUCTS, ONEDNN_PRODUCTS, BF16_PRODUCTS = "torch", "onednn", "bf16"
"""Whose products of matrices; the last are oneDNN's, in bfloat16 where a factor is a weight of the base. Plans of
versions that had torch's alone name none."""

ALL_ROWS = 0
"""The head works on the whole vocabulary at once: plans of versions that had no blocks say nothing about it."""


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """What each trainer may set for itself. max_tokens_per_pass: the budget of a micro-batch. threads: of torch."""

    max_tokens_per_pass: int
    threads: int


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Which datums are computed together, in which order, and by what.

    order_D: indices of the batch's datums, as they are computed; each datum once. micro_batch_sizes_M: how many of them
    each micro-batch holds, in that order. shard_sizes_S: how many micro-batches each shard holds. A shard sums its
    micro-batches in their order; the gradient is the sum of the shards in theirs, whoever computes them.

    kernel: of attention, by the engine's name for it. lora: of adapted layers. products: of matrices, in adapted layers
    and the head. head_rows: of the unembedding, which the head works on at once. seconds: that planning took, 0 for a
    plan that was read.
    """

    settings: PlanSettings
    kernel: str
    order_D: Int32Array
    micro_batch_sizes_M: Int32Array
    shard_sizes_S: Int32Array
    lora: str = PEFT_LORA
    head_rows: int = ALL_ROWS
    products: str = TORCH_PRODUCTS
    seconds: float = 0.0

    @property
    def micro_batches(self) -> list[Int32Array]:
        """The datums of each micro-batch."""
        return np.split(self.order_D, np.cumsum(self.micro_batch_sizes_M)[:-1])

    @property
    def shards(self) -> list[list[Int32Array]]:
        """The datums of each micro-batch of each shard."""
        micro_batches = self.micro_batches
        sizes, ends = self.shard_sizes_S.tolist(), np.cumsum(self.shard_sizes_S).tolist()
        return [micro_batches[end - size : end] for size, end in zip(sizes, ends, strict=True)]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Of an optimizer step. threads: of torch, which sum the gradient's norm. max_grad_norm: to which the gradient is
    clipped if the call does not say; None for no clipping."""

    threads: int
    max_grad_norm: float | None = None


def plan_of(
    shards: Sequence[Sequence[Sequence[int]]],
    settings: PlanSettings,
    kernel: str,
    lora: str = PEFT_LORA,
    head_rows: int = ALL_ROWS,
    products: str = TORCH_PRODUCTS,
    seconds: float = 0.0,
) -> Plan:
    """The plan with these datums in each micro-batch of each shard; what is not given is as earlier versions had it."""
    micro_batches = [micro_batch for shard in shards for micro_batch in shard]
    return Plan(
        settings,
        kernel,
        _array(index for micro_batch in micro_batches for index in micro_batch),
        _array(map(len, micro_batches)),
        _array(map(len, shards)),
        lora,
        head_rows,
        products,
        seconds,
    )


def encode_plan(plan: Plan) -> bytes:
    """As an operation's row keeps it: a few hundred bytes, and less than one more for each datum."""
    settings = plan.settings
    header = {
        "format": _FORMAT,
        "max_tokens_per_pass": settings.max_tokens_per_pass,
        "threads": settings.threads,
        "kernel": plan.kernel,
        "lora": plan.lora,
        "head_rows": plan.head_rows,
        "products": plan.products,
    }
    arrays = {
        # Neighbours are mostly computed together: differences compress to almost nothing.
        "order": np.diff(plan.order_D, prepend=np.int32(0)),
        "micro_batches": plan.micro_batch_sizes_M,
        "shards": plan.shard_sizes_S,
    }
    return encode(header, arrays)


def decode_plan(data: bytes) -> Plan:
    """The plan that `encode_plan` wrote. Raises ValueError on anything else."""
    header, arrays = decode(data)
    _header(header)
    return Plan(
        PlanSettings(header["max_tokens_per_pass"], header["threads"]),
        header["kernel"],
        np.cumsum(arrays["order"], dtype=np.int32),
        arrays["micro_batches"],
        arrays["shards"],
        header.get("lora", PEFT_LORA),
        header.get("head_rows", ALL_ROWS),
        header.get("products", TORCH_PRODUCTS),
    )


def encode_step_plan(plan: StepPlan) -> bytes:
    """As an operation's row keeps it."""
    return encode({"format": _FORMAT, **asdict(plan)})


def decode_step_plan(data: bytes) -> StepPlan:
    """The plan that `encode_step_plan` wrote. Raises ValueError on anything else."""
    header = _header(decode(data)[0])
    return StepPlan(header["threads"], header["max_grad_norm"])


def _header(header: dict[str, Any]) -> dict[str, Any]:
    if header.get("format") != _FORMAT:
        raise ValueError("not a plan, or one of a later version")
    return header


def _array(values: Iterable[int]) -> Int32Array:
    return np.fromiter(values, np.int32)
