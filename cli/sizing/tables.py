"""The sizes of bases as rows of text, for the command and for docs/sizing.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cli.sizing.base_counts import BaseCounts
from cli.sizing.sampler_memory import SamplerMemory, sampler_memory, smallest
from cli.sizing.trainer_memory import TrainerMemory, trainer_memory

BASE_HEADINGS = (
    "base",
    "parameters",
    "of an adapter",
    "kB a token takes",
    "… if layers are computed twice",
    "kB of keys and values",
)
TRAINER_HEADINGS = (
    "base",
    "GPUs",
    "base on each",
    "two gathered layers",
    "a model",
    "its partial sums",
    "left",
    "tokens of a pass",
    "longest trajectory",
)
SAMPLER_HEADINGS = ("base", "GPUs", "base on each", "adapters", "tokens cached", "enough")
_MOST_RANKS = 8


@dataclass(frozen=True, slots=True)
class Machine:
    """What is asked about. gpu: bytes of one. rank: of the adapters that are trained; num_shards: into which a batch is
    divided. served_rank, slots: of adapters for which samplers keep room. cached: tokens whose keys and values a
    sampler should hold."""

    gpu: int
    rank: int
    num_shards: int
    served_rank: int
    slots: int
    cached: int


def trainers_of(counts: BaseCounts, gpus: Iterable[int], machine: Machine) -> list[TrainerMemory]:
    """A rank of a trainer on each of these numbers of GPUs."""
    fixed = {"rank": machine.rank, "num_shards": machine.num_shards, "gpu": machine.gpu}
    return [trainer_memory(counts, ranks=ranks, **fixed) for ranks in gpus]


def samplers_of(counts: BaseCounts, machine: Machine) -> list[SamplerMemory]:
    """A rank of a sampler on 1, 2, 4 and 8 GPUs, as far as these divide the heads."""
    fixed = {"rank": machine.served_rank, "slots": machine.slots, "gpu": machine.gpu}
    possible = [ranks for ranks in (1, 2, 4, _MOST_RANKS) if counts.heads % ranks == 0]
    return [sampler_memory(counts, ranks=ranks, **fixed) for ranks in possible]


def base_row(counts: BaseCounts, rank: int) -> list[str]:
    """By `BASE_HEADINGS`. rank: of the adapter."""
    kept, recomputed = (
        counts.activations.of_pass(1, recompute=recompute) - counts.activations.head for recompute in (False, True)
    )
    cached = counts.key_values * counts.weight_bytes
    return [
        counts.name,
        f"{counts.num_parameters / 1e9:.2f} billion",
        f"{counts.lora_parameters(rank) / 1e6:.0f} million",
        *(f"{num_bytes / 1e3:,.0f}" for num_bytes in (kept, recomputed, cached)),
    ]


def trainer_row(memory: TrainerMemory) -> list[str]:
    """By `TRAINER_HEADINGS`."""
    sizes = map(gigabytes, (memory.base, memory.gathered, memory.model, memory.partial_sums, memory.left))
    fits = memory.longest > 0
    tokens = (_tokens(memory.pass_tokens), _tokens(memory.longest)) if fits else ("does not fit", "does not fit")
    return [memory.counts.name, str(memory.ranks), *sizes, *tokens]


def sampler_rows(counts: BaseCounts, sizes: Sequence[SamplerMemory], cached: int) -> list[list[str]]:
    """By `SAMPLER_HEADINGS`, those that hold the base."""
    first = smallest(sizes, cached)
    return [
        [
            counts.name,
            str(size.ranks),
            gigabytes(size.base),
            gigabytes(size.adapters),
            _tokens(size.cached_tokens),
            "yes" if first is not None and size.ranks >= first.ranks else "no",
        ]
        for size in sizes
        if size.cached_tokens
    ]


def gigabytes(num_bytes: float) -> str:
    """Of 10⁹ bytes, to a tenth."""
    return f"{num_bytes / 1e9:.1f}"


def _tokens(number: int) -> str:
    """Rounded down to three figures: more is not known of a machine that was not measured."""
    unit = 10 ** max(0, len(str(number)) - 3)
    return f"{number // unit * unit:,}"
