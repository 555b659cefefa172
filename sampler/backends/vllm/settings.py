"""Settings of the vLLM backend."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from wire.process.options import Option


def words(text: str) -> tuple[str, ...]:
    """Arguments as on a command line."""
    return tuple(shlex.split(text))


TOOL_CALL_PARSER = Option(
    "With vLLM: name of its tool call parser, or none; default: by the base's chat template",
    "HEADWAY_TOOL_CALL_PARSER",
)
REASONING_PARSER = Option(
    "With vLLM: name of its reasoning parser, or none; default: by the base's chat template",
    "HEADWAY_REASONING_PARSER",
)


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """Which vLLM, and how much it holds.

    url: attach to a running server, which this sampler then has for itself; else one is started with `python`, the
    interpreter of vLLM's own environment (None: that of `.venv-vllm` beside ours), and `extra_args`, which win.

    tool_call_parser and reasoning_parser are vLLM's own; None: what the base's chat template is written for; "none":
    none. (They say nothing about a server of `url`, which has its own.)

    seed makes requests without a seed of their own reproducible. num_threads is for a server on a CPU, and of each of
    its ranks; None: as many as the model is worth. tensor_parallel: ranks, a GPU each, over which the layers are split.
    max_lora_rank is rounded up to one that vLLM knows. max_loras adapters compute in one batch, and
    requests for others wait. max_num_seqs sequences are computed at once; more wait here, where teams take turns (of a
    server of `url`: what that one has). adapter_dir: a folder that the server can read, for adapter files (None: the
    system's for temporary files). A server out of which no token comes for stalled_s, though it is asked for one, is
    started again.
    """

    url: Annotated[
        str | None,
        Option("Attach to this server instead, which serves nobody else", "HEADWAY_VLLM_URL", "--vllm-url"),
    ] = None
    python: Annotated[
        str | None,
        Option(
            "python of the environment that vLLM is in; default: .venv-vllm beside this one",
            "HEADWAY_VLLM_PYTHON",
            "--vllm-python",
        ),
    ] = None
    extra_args: Annotated[
        tuple[str, ...],
        Option(
            "More of vLLM's own arguments, as on a command line",
            "HEADWAY_VLLM_ARGS",
            "--vllm-args",
            parse=words,
        ),
    ] = ()
    tool_call_parser: Annotated[str | None, TOOL_CALL_PARSER] = None
    reasoning_parser: Annotated[str | None, REASONING_PARSER] = None
    seed: int | None = None
    num_threads: int | None = None
    tensor_parallel: int = 1
    max_lora_rank: Annotated[
        int,
        Option(
            "Adapters of a higher rank are refused", "HEADWAY_VLLM_MAX_LORA_RANK", "--vllm-max-lora-rank", minimum=1
        ),
    ] = 64
    max_loras: int = 8
    max_cpu_loras: int = 64
    max_num_seqs: Annotated[
        int,
        Option(
            "Sequences that vLLM computes at once; more wait, and teams take turns",
            "HEADWAY_VLLM_MAX_NUM_SEQS",
            "--vllm-max-num-seqs",
            minimum=1,
        ),
    ] = 256
    adapter_dir: Annotated[
        Path | None,
        Option(
            "Folder for adapter files, which vLLM has to reach too", "HEADWAY_VLLM_ADAPTER_DIR", "--vllm-adapter-dir"
        ),
    ] = None
    start_timeout_s: float = 900.0
    stalled_s: float = 60.0
