"""The tables of docs/fleet.md: `python -m cli.reference_pages.fleet_tables` prints them. Counted from shapes, as
`headway sizing` counts, and divided by bandwidths; nothing in them was measured."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from cli.commands.sizing import CACHED_TOKENS, GPU_GB, RANK, machine_of
from cli.sizing.base_counts import BaseCounts
from cli.sizing.counting import count_preset
from cli.sizing.tables import Machine, samplers_of, trainers_of

BASES = ("qwen2.5-7b", "qwen3-32b", "llama-3.3-70b")
GPUS = (1, 2, 4, 8)
TRAJECTORY = 32_000
"""Scored tokens of the longest trajectory that a trainer shall take."""
ROLLOUT = 16_000
"""Tokens of a rollout whose keys and values a sampler holds."""
NUM_SAMPLERS = (1, 8, 32, 128)
GBITS = (1, 10, 100)

SIZE_HEADINGS = (
    "base",
    "weights",
    "smallest trainer",
    "its longest trajectory",
    "smallest sampler",
    "its rollouts at once",
)
MOVE_HEADINGS = ("base", "adapter", "Gbit/s", *(f"to {n}" for n in NUM_SAMPLERS), "the base to one")


def tables() -> tuple[str, str]:
    """The smallest trainer and sampler of each base; and how long an adapter takes to all of its samplers."""
    machine = machine_of(int(GPU_GB * 1e9), RANK, CACHED_TOKENS)
    found = [count_preset(name, RANK) for name in BASES]
    sizes = [size_row(counts, machine) for counts in found]
    moves = [move_row(counts, gbits) for counts in found for gbits in GBITS]
    return _table(SIZE_HEADINGS, sizes), _table(MOVE_HEADINGS, moves)


def size_row(counts: BaseCounts, machine: Machine) -> list[str]:
    """By `SIZE_HEADINGS`: the fewest GPUs that train a trajectory of `TRAJECTORY` tokens, and that cache enough."""
    trainer = next(each for each in trainers_of(counts, GPUS, machine) if each.longest >= TRAJECTORY)
    sampler = next(each for each in samplers_of(counts, machine) if each.cached_tokens >= machine.cached)
    return [
        counts.name,
        f"{base_bytes(counts) / 1e9:.1f} GB",
        _gpus(trainer.ranks),
        f"{_rounded(trainer.longest):,}",
        _gpus(sampler.ranks),
        str(sampler.cached_tokens // ROLLOUT),
    ]


def move_row(counts: BaseCounts, gbits: int) -> list[str]:
    """By `MOVE_HEADINGS`. All samplers fetch one adapter through a store of this bandwidth; a cold one, the base."""
    adapter = adapter_bytes(counts)
    return [
        counts.name,
        f"{adapter / 1e6:.0f} MB",
        str(gbits),
        *(_seconds(transfer_s(adapter * samplers, gbits)) for samplers in NUM_SAMPLERS),
        _seconds(transfer_s(base_bytes(counts), gbits)),
    ]


def adapter_bytes(counts: BaseCounts) -> int:
    """Of an adapter's file, which has the base's precision."""
    return counts.lora_parameters(RANK) * counts.weight_bytes


def base_bytes(counts: BaseCounts) -> int:
    """Of the base's files."""
    return counts.num_parameters * counts.weight_bytes


def transfer_s(num_bytes: float, gbits: float) -> float:
    """Seconds at so many 10^9 bits a second."""
    return num_bytes * 8 / (gbits * 1e9)


def _seconds(seconds: float) -> str:
    if seconds < 0.095:
        return f"{seconds:.2f} s"
    return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:,.0f} s"


def _rounded(tokens: int) -> int:
    """To three digits, downwards."""
    unit = 10 ** max(0, len(str(tokens)) - 3)
    return tokens // unit * unit


def _gpus(number: int) -> str:
    return f"{number} GPU{'s' if number > 1 else ''}"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in (headings, ["---"] * len(headings), *rows))


if __name__ == "__main__":
    sys.stdout.write("\n".join(tables()))
