"""The tables of docs/sizing.md: `python -m cli.reference_pages.sizing_tables` prints them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from cli.commands.sizing import CACHED_TOKENS, GPU_GB, GPUS, RANK, SHOWN, machine_of
from cli.sizing.counting import count_preset
from cli.sizing.tables import (
    BASE_HEADINGS,
    SAMPLER_HEADINGS,
    TRAINER_HEADINGS,
    base_row,
    sampler_rows,
    samplers_of,
    trainer_row,
    trainers_of,
)


def tables() -> tuple[str, str, str]:
    """Of bases, trainers and samplers, as the command counts them by default."""
    machine = machine_of(int(GPU_GB * 1e9), RANK, CACHED_TOKENS)
    found = [count_preset(name, RANK) for name in SHOWN]
    bases = [base_row(counts, RANK) for counts in found]
    training = [trainer_row(memory) for counts in found for memory in trainers_of(counts, GPUS, machine)]
    sampling = [row for counts in found for row in sampler_rows(counts, samplers_of(counts, machine), CACHED_TOKENS)]
    return _table(BASE_HEADINGS, bases), _table(TRAINER_HEADINGS, training), _table(SAMPLER_HEADINGS, sampling)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in (headings, ["---"] * len(headings), *rows))


if __name__ == "__main__":
    sys.stdout.write("\n".join(tables()))
