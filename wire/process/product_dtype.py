"""In what the frozen linear layers of a base multiply on a CPU: in float32, or in bfloat16 as GPUs do.

Trainer and sampler take the same option, hold bfloat16 against float32 by the same ids and bound when a base loads, and
go on in float32 where it does not pass. See docs/decisions/0064.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from wire.process.options import Option


class ProductDtype(StrEnum):
    """BF16: both factors are rounded to bfloat16, sums are float32, and the result is rounded once. All else stays
    float32: what layers pass on, norms, attention, the unembedding, LoRA."""

    FLOAT32 = "float32"
    BF16 = "bf16"


PRODUCTS = Option(
    "What linear layers multiply in on a CPU: float32 or bf16 (where the base is stored in it, the processor has it, "
    "and logprobs agree at load; else float32, with a warning). GPUs compute in bfloat16 anyway",
    "HEADWAY_PRODUCTS",
)
"""Of the trainer and of the local sampler."""

TOO_SMALL = "no layer of the base is large enough to be quicker in it"
NO_INSTRUCTIONS = "the processor has neither AVX512-BF16 nor AMX"
NO_ONEDNN = "torch is built without oneDNN"
STORED_OTHERWISE = "the base is not stored in bfloat16"
"""Why products are float32 though bf16 was asked for."""

MAX_DIFFERENCE_NATS = 0.1
"""Between a probe's logprobs by bf16 and by float32 products, on average: what a base in bfloat16 may be off by
altogether. SmolLM2-135M: 0.04 on such ids, 0.014 on text."""

PROBE_LENGTH = 48
LEAST_WEIGHTS = 1 << 16
"""Of a layer, for which casting its inputs and outputs is little beside what is saved: 256 × 256."""
_INSTRUCTIONS = {"avx512_bf16", "amx_bf16"}


def is_worth_rounding(num_weights: int) -> bool:
    """Whether a layer of so many weights is quicker in bfloat16, however many rows there are: trainer and sampler must
    round alike, or their logprobs differ by what rounding costs."""
    return num_weights >= LEAST_WEIGHTS


def probe_ids(vocab_size: int) -> list[int]:
    """Ids without a pattern."""
    return [number * 7919 % vocab_size for number in range(1, PROBE_LENGTH + 1)]


def multiplies_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor has instructions for products of bfloat16, without which they take longer than those of
    float32. False where the kernel does not say."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return not _INSTRUCTIONS.isdisjoint(flags)
