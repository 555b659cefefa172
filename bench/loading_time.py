"""How long each plane takes to load a base, beside reading its file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from transformers import AutoModelForCausalLM

from bench.clock import alternate, wall_s
from sampler.backends.local import open_backend
from trainer.engine.base_model import load_base_model

FILE, TRANSFORMERS, TRAINER, SAMPLER = "reading the file", "transformers", "trainer", "sampler"


def loading_seconds(base: Path, rounds: int) -> Mapping[str, list[float]]:
    """Wall seconds by who loads, an entry a round; what imports take is over. The first round warms the file's pages
    up, and is not counted."""
    ways: dict[str, Callable[[], object]] = {
        FILE: lambda: [path.read_bytes() for path in base.glob("*.safetensors")],
        TRANSFORMERS: lambda: AutoModelForCausalLM.from_pretrained(base, dtype="auto"),
        TRAINER: lambda: load_base_model(str(base)),
        SAMPLER: lambda: asyncio.run(open_backend(str(base)).close()),
    }
    return {name: of[1:] for name, of in alternate(ways, rounds + 1, wall_s).items()}
