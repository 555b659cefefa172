"""Refuses what vLLM would serve without an error although it is not the adapter that was trained: tensors of another
shape are copied as far as they fit, and parts of the configuration are ignored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sampler.adapter_config import WEIGHTS_FILE, read_config
from sampler.backends.vllm.base_tensors import BaseTensors, read_shapes
from wire.errors import CorruptCheckpoint, InvalidRequest, NotFound

_WEIGHT_KEY = re.compile(r"base_model\.model\.(?P<path>.+)\.lora_(?P<side>[AB])\.weight")


def check_adapter(name: str, path: Path, base: BaseTensors, max_rank: int) -> None:
    """Raises NotFound, CorruptCheckpoint or InvalidRequest, as SamplerBackend.load_adapter says."""
    config = read_config(name, path)
    rank: int = config["r"]
    if rank > max_rank:
        raise InvalidRequest(f"adapter {name}: rank {rank} is over the {max_rank} of --vllm-max-lora-rank; raise it")
    try:
        shapes = read_shapes(path / WEIGHTS_FILE)
    except FileNotFoundError as missing:
        raise NotFound(f"adapter {name}: there is no {path / WEIGHTS_FILE}") from missing
    targets = _by_target(name, shapes)
    for target, sides in targets.items():
        _check_shapes(f"adapter {name}, {target}", base.linear(target), sides, rank)
    _require_targets(name, config["target_modules"], targets)


def is_on_head(path: Path) -> bool:
    """Whether the adapter in this folder changes the unembedding."""
    return any(key.startswith("base_model.model.lm_head.") for key in read_shapes(path / WEIGHTS_FILE))


def _by_target(name: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, tuple[int, ...]]]:
    if not shapes:
        raise CorruptCheckpoint(f"adapter {name}: {WEIGHTS_FILE} is empty; a zero adapter has no files at all")
    sides: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, shape in shapes.items():
        match = _WEIGHT_KEY.fullmatch(key)
        if match is None:
            raise InvalidRequest(f"adapter {name}: weight {key} is not supported by samplers")
        sides.setdefault(match["path"], {})[match["side"]] = shape
    return sides


def _check_shapes(what: str, linear: tuple[int, int] | None, shapes: Mapping[str, tuple[int, ...]], rank: int) -> None:
    if linear is None:
        raise CorruptCheckpoint(f"{what}: the base has no linear layer of that name")
    num_outputs, num_inputs = linear
    wanted = {"A": (rank, num_inputs), "B": (num_outputs, rank)}
    if shapes != wanted:
        raise CorruptCheckpoint(f"{what}: lora_A and lora_B should have shapes {wanted}, not {shapes}")


def _require_targets(name: str, target_modules: Any, targets: Mapping[str, object]) -> None:
    """Each listed target must have weights. (A single string is a pattern of PEFT's, and lists nothing.)"""
    listed = target_modules if isinstance(target_modules, list) else []
    for module in listed:
        if not any(path == module or path.endswith(f".{module}") for path in targets):
            raise CorruptCheckpoint(f"adapter {name}: target module {module} has no weights")
