"""`headway sizing`: how many GPUs a base needs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from cli.ending import sentence_of
from cli.settings import stop_with
from cli.sizing.base_counts import BaseCounts
from cli.sizing.presets import PRESETS
from cli.sizing.tables import (
    BASE_HEADINGS,
    SAMPLER_HEADINGS,
    TRAINER_HEADINGS,
    Machine,
    base_row,
    sampler_rows,
    samplers_of,
    trainer_row,
    trainers_of,
)
from cli.terminal.tables import Json, Listing, print_json, show
from sampler.backends.vllm.settings import VllmSettings

SHOWN = ("qwen3-8b", "qwen3-32b", "llama-3.3-70b")
GPUS = (1, 4, 8)
GPU_GB = 141.0
RANK = 32
CACHED_TOKENS = 500_000
_UNITS = "10^9 bytes of each GPU, and tokens"


def sizing(
    base: Annotated[
        list[str] | None,
        typer.Option(
            help=f"A folder or a config.json, a Hugging Face id, or one of {', '.join(PRESETS)}. Repeat for several."
        ),
    ] = None,
    gpus: Annotated[list[int] | None, typer.Option(min=1, help="GPUs of a trainer; repeat for several sizes")] = None,
    gpu_gb: Annotated[float, typer.Option(min=1.0, help="Memory of one, in units of 10^9 bytes")] = GPU_GB,
    rank: Annotated[int, typer.Option(min=1, help="LoRA rank of the models that are trained")] = RANK,
    cached_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens whose keys and values a sampler should hold at once")
    ] = CACHED_TOKENS,
    as_json: Json = False,
) -> None:
    """Print what a trainer and a sampler of a base hold on each GPU, in 10^9 bytes, and what is left for tokens.

    Counted from the shapes of the weights in bfloat16, with adapters on all linear layers; nothing is loaded.
    """
    found = [_counted(each, rank) for each in base or SHOWN]
    machine = machine_of(int(gpu_gb * 1e9), rank, cached_tokens)
    trainers = [trainer for counts in found for trainer in trainers_of(counts, gpus or GPUS, machine)]
    if as_json:
        print_json(_json(found, trainers, machine))
        return
    bases = Listing(*BASE_HEADINGS, title=f"bases, and adapters of rank {rank}")
    training = Listing(*TRAINER_HEADINGS, title=f"a trainer: {_UNITS}")
    sampling = Listing(*SAMPLER_HEADINGS, title=f"a sampler: {_UNITS}")
    for counts in found:
        bases.add_row(*base_row(counts, rank))
    for trainer in trainers:
        training.add_row(*trainer_row(trainer))
    for counts in found:
        for row in sampler_rows(counts, samplers_of(counts, machine), cached_tokens):
            sampling.add_row(*row)
    show(bases, training, sampling)


def machine_of(gpu: int, rank: int, cached_tokens: int) -> Machine:
    """With the engine's and vLLM's own settings for the rest."""
    from sampler.backends.vllm.command import served_rank
    from trainer.engine.engine import EngineSettings

    vllm = VllmSettings()
    return Machine(
        gpu, rank, EngineSettings().max_shards, served_rank(vllm.max_lora_rank), vllm.max_loras, cached_tokens
    )


def _counted(base: str, rank: int) -> BaseCounts:
    try:
        from cli.sizing.counting import config_of, count_base, count_preset
    except ModuleNotFoundError as missing:
        stop_with(f"sizing needs {missing.name}; install headway[trainer]")
    from wire.errors import HeadwayError

    try:
        return count_preset(base, rank) if base in PRESETS else count_base(base, config_of(base), rank)
    except (OSError, ValueError, HeadwayError) as error:
        stop_with(sentence_of(error))


def _json(found: list[BaseCounts], trainers: list[Any], machine: Machine) -> dict[str, Any]:
    samplers = [
        {"base": counts.name, **asdict(size), "cached_tokens": size.cached_tokens}
        for counts in found
        for size in samplers_of(counts, machine)
    ]
    return {
        "bases": [
            {
                "base": counts.name,
                "parameters": counts.num_parameters,
                "lora_parameters": counts.lora_parameters(machine.rank),
                "activations": asdict(counts.activations),
            }
            for counts in found
        ],
        "trainers": [
            {
                "base": each.counts.name,
                **{name: getattr(each, name) for name in ("ranks", "gpu", "gathered", "model", "partial_sums", "left")},
                "base_bytes": each.base,
                "pass_tokens": each.pass_tokens,
                "longest_trajectory": each.longest,
            }
            for each in trainers
        ],
        "samplers": samplers,
    }
