"""Reading a LoRA adapter in PEFT layout, for one base model. What is not understood is refused by its name: an
adapter that is half applied samples from a policy that nobody trained."""

# r rank, I features in, O features out

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sampler.adapter_config import WEIGHTS_FILE, read_config
from wire.errors import CorruptCheckpoint, InvalidRequest, NotFound

_WEIGHT_KEY = re.compile(r"base_model\.model\.(?P<path>.+)\.lora_(?P<side>[AB])\.weight")


@dataclass(frozen=True, slots=True)
class LoraPair:
    """One target's update, ready to multiply: output += (x @ a_Ir) @ b_rO, the scale folded into b."""

    a_Ir: Tensor
    b_rO: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """The targets of one adapter, by module path. A zero adapter has none."""

    name: str
    pairs: Mapping[str, LoraPair]


def read_adapter(name: str, path: Path | None, linears: Mapping[str, nn.Linear]) -> Adapter:
    """The adapter in the folder `path` (None: a zero adapter) over the base's linear layers.

    Raises NotFound, CorruptCheckpoint or InvalidRequest, as SamplerBackend.load_adapter says.
    """
    if path is None:
        return Adapter(name, {})
    config = read_config(name, path)
    weights = _read_weights(name, path)
    _require_finite(name, weights)
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    sides = _by_target(name, weights)
    pairs = {
        target: _pair(f"adapter {name}, {target}", linears.get(target), found, config["r"], scale)
        for target, found in sides.items()
    }
    _require_targets(name, config["target_modules"], pairs)
    return Adapter(name, pairs)


def _read_weights(name: str, path: Path) -> dict[str, Tensor]:
    try:
        weights = load_file(path / WEIGHTS_FILE)
    except FileNotFoundError as missing:
        raise NotFound(f"adapter {name}: there is no {path / WEIGHTS_FILE}") from missing
    except (SafetensorError, OSError, ValueError) as error:
        raise CorruptCheckpoint(f"adapter {name}: {WEIGHTS_FILE} cannot be read: {error}") from error
    if not weights:
        raise CorruptCheckpoint(f"adapter {name}: {WEIGHTS_FILE} is empty; a zero adapter has no files at all")
    return weights


def _require_finite(name: str, weights: Mapping[str, Tensor]) -> None:
    # All at once: a step waits for this, and asking each tensor by itself takes as long as reading them.
    if not torch.cat([weight.flatten() for weight in weights.values()]).isfinite().all():
        raise CorruptCheckpoint(f"adapter {name}: weights are not finite")


def _by_target(name: str, weights: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    sides: dict[str, dict[str, Tensor]] = {}
    for key, weight in weights.items():
        match = _WEIGHT_KEY.fullmatch(key)
        if match is None:
            raise InvalidRequest(f"adapter {name}: weight {key} is not supported by the local sampler")
        sides.setdefault(match["path"], {})[match["side"]] = weight
    return sides


def _pair(what: str, linear: nn.Linear | None, sides: Mapping[str, Tensor], rank: int, scale: float) -> LoraPair:
    if linear is None:
        raise CorruptCheckpoint(f"{what}: the base has no linear layer of that name")
    wanted = {"A": (rank, linear.in_features), "B": (linear.out_features, rank)}
    shapes = {side: tuple(weight.shape) for side, weight in sides.items()}
    if shapes != wanted:
        raise CorruptCheckpoint(f"{what}: lora_A and lora_B should have shapes {wanted}, not {shapes}")
    # Contiguous copies: nothing keeps the file mapped.
    return LoraPair(sides["A"].float().T.contiguous(), (sides["B"].float().T * scale).contiguous())


def _require_targets(name: str, target_modules: Any, pairs: Mapping[str, LoraPair]) -> None:
    """Each listed target must have weights. (A single string is a pattern of PEFT's, and lists nothing.)"""
    listed = target_modules if isinstance(target_modules, list) else []
    for module in listed:
        if not any(path == module or path.endswith(f".{module}") for path in pairs):
            raise CorruptCheckpoint(f"adapter {name}: target module {module} has no weights")
