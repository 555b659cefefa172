"""How a vLLM server is started. What depends on its device is for `launch.py` to say, inside its environment."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TypeVar

from sampler.backends.vllm.parsers import Parsers
from sampler.backends.vllm.settings import VllmSettings
from wire.pictures import PictureLimits
from wire.process.lifeline import VARIABLE
from wire.sampling import MAX_TOP_PROMPT_LOGPROBS

_LAUNCHER = Path(__file__).with_name("launch.py")
_PLUGIN = Path(__file__).with_name("plugin")
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
MAX_TOP_LOGPROBS = 20
_Number = TypeVar("_Number", int, float)
# Decoding returns several tokens at once: a chunk costs the server about as much as a token costs a small model.
_STREAM_INTERVAL = 8
DEFAULT_PICTURE_CACHE_GIB = 4.0
# Compact JSON: an untrained policy would write blanks without end. And one library for all: left to itself, vLLM
# chooses one by the first request, and fails at later ones that it would have had kept by another.
_STRUCTURED_OUTPUTS = {"backend": "xgrammar", "disable_any_whitespace": True}


def server_command(
    base: Path, port: int, settings: VllmSettings, parsers: Parsers, *, with_pictures: bool = False
) -> list[str]:
    """The command line. Raises ValueError when there is no interpreter, or no such rank."""
    flags = {
        "--model": str(base),
        "--host": "127.0.0.1",
        "--port": str(port),
        "--logprobs-mode": "processed_logprobs",  # of the distribution sampled from
        "--generation-config": "vllm",  # the model's own sampling defaults would apply silently
        "--max-logprobs": str(max(MAX_TOP_LOGPROBS + 1, MAX_TOP_PROMPT_LOGPROBS)),
        "--max-loras": str(settings.max_loras),
        "--max-cpu-loras": str(settings.max_cpu_loras),
        "--max-lora-rank": str(served_rank(settings.max_lora_rank)),
        "--max-num-seqs": str(settings.max_num_seqs),
        "--tensor-parallel-size": str(settings.tensor_parallel),
        "--scheduling-policy": "priority",  # that of a request is how many of its team are before it
        "--stream-interval": str(_STREAM_INTERVAL),
        "--structured-outputs-config": json.dumps(_STRUCTURED_OUTPUTS),
        "--shutdown-timeout": "30",
    }
    if with_pictures:
        flags["--limit-mm-per-prompt"] = json.dumps({"image": PictureLimits().per_request, "video": 0})
    switches = ["--enable-lora", "--enable-scale-out", "--disable-uvicorn-access-log"]
    pairs = [word for pair in flags.items() for word in pair]
    return [_python(settings), str(_LAUNCHER), *pairs, *switches, *parsers.arguments(), *settings.extra_args]


def server_environment(num_threads: int, *, has_vision: bool = False) -> dict[str, str]:
    """The environment: ours, and what vLLM reads from it. has_vision: the base has a vision tower, whose modules
    vLLM's processes cannot import as they are in every environment."""
    before = os.environ.get("PYTHONPATH")
    plugin = {"PYTHONPATH": os.pathsep.join(filter(None, (str(_PLUGIN), before)))} if has_vision else {}
    return {
        **os.environ,
        VARIABLE: "1",
        "HEADWAY_VLLM_THREADS": str(num_threads),
        "PYTHONUNBUFFERED": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
        **plugin,
    }


def served_num_seqs(settings: VllmSettings) -> int:
    """How many sequences the server computes at once; its own arguments win. Raises ValueError."""
    return _given(settings, ("--max-num-seqs", "--max_num_seqs"), settings.max_num_seqs)


def served_picture_cache(settings: VllmSettings) -> int:
    """Bytes of pixels that the server keeps; its own arguments win. Raises ValueError."""
    names = ("--mm-processor-cache-gb", "--mm_processor_cache_gb")
    return int(_given(settings, names, DEFAULT_PICTURE_CACHE_GIB, minimum=0.0) * 1024**3)


def served_tensor_parallel(settings: VllmSettings) -> int:
    """Over how many ranks the server splits each layer; its own arguments win. Raises ValueError."""
    return _given(settings, ("--tensor-parallel-size", "--tensor_parallel_size", "-tp"), settings.tensor_parallel)


def served_rank(wanted: int) -> int:
    """The smallest maximal rank of vLLM's that admits this one."""
    rank = next((rank for rank in _RANKS if rank >= wanted), None)
    if rank is None:
        raise ValueError(f"vLLM serves LoRA ranks up to {_RANKS[-1]}, not {wanted}")
    return rank


def _given(
    settings: VllmSettings, names: tuple[str, ...], otherwise: _Number, minimum: _Number | None = None
) -> _Number:
    least = type(otherwise)(1) if minimum is None else minimum
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False, add_help=False)
    parser.add_argument(*names, type=type(otherwise), default=otherwise, dest="given")
    try:
        given: _Number = parser.parse_known_args(settings.extra_args)[0].given
    except argparse.ArgumentError as error:
        raise ValueError(f"vLLM's arguments: {error}") from None
    if given < least:
        raise ValueError(f"vLLM's arguments: {names[0]} is {given}; it must be at least {least}")
    return given


def _python(settings: VllmSettings) -> str:
    if settings.python:
        return settings.python
    beside = Path(sys.prefix).with_name(".venv-vllm") / "bin" / "python"
    if not beside.exists():
        raise ValueError(
            "vLLM needs an environment of its own: `make .venv-vllm/installed` makes one for a CPU; name the python of "
            "another one with --vllm-python, or a running server with --vllm-url"
        )
    return str(beside)
