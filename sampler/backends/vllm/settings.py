"""Settings of the vLLM backend."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """Which vLLM, and how much it holds.

    url: attach to a running server, which this sampler then has for itself; else one is started with `python`, the
    interpreter of vLLM's own environment (None: that of `.venv-vllm` beside ours), and `extra_args`, which win.

    tool_call_parser and reasoning_parser are vLLM's own; None: what the base's chat template is written for; "none":
    none. (They say nothing about a server of `url`, which has its own.)

    seed makes requests without a seed of their own reproducible. num_threads is for a server on a CPU; None: as many as
    the model is worth. max_lora_rank is rounded up to one that vLLM knows. max_loras adapters compute in one batch, and
    requests for others wait. max_num_seqs sequences are computed at once; more wait here, where teams take turns (of a
    server of `url`: what that one has). adapter_dir: a folder that the server can read, for adapter files (None: the
    system's for temporary files). A server out of which no token comes for stalled_s, though it is asked for one, is
    started again.
    """

    url: str | None = None
    python: str | None = None
    extra_args: tuple[str, ...] = ()
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    seed: int | None = None
    num_threads: int | None = None
    max_lora_rank: int = 64
    max_loras: int = 8
    max_cpu_loras: int = 64
    max_num_seqs: int = 256
    adapter_dir: Path | None = None
    start_timeout_s: float = 900.0
    stalled_s: float = 60.0
