"""The configuration of a LoRA adapter in PEFT layout. What is not understood is refused by its name: an adapter that is
half applied samples from a policy that nobody trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wire.errors import CorruptCheckpoint, InvalidRequest, NotFound

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"

# Fields that change what an adapter computes; their harmless values are None, False, empty, or listed.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "use_dora": (),
    "bias": ("none",),
    "lora_bias": (),
    "modules_to_save": (),
    "rank_pattern": (),
    "alpha_pattern": (),
    "target_parameters": (),
    "trainable_token_indices": (),
    "fan_in_fan_out": (),
    "layer_replication": (),
    "use_qalora": (),
    "alora_invocation_tokens": (),
    "arrow_config": (),
    "use_bdlora": (),
}


def read_config(name: str, path: Path) -> dict[str, Any]:
    """`r`, `lora_alpha`, `target_modules` and the rest. Raises NotFound, CorruptCheckpoint or InvalidRequest."""
    try:
        config = json.loads((path / CONFIG_FILE).read_text())
    except FileNotFoundError as missing:
        raise NotFound(f"adapter {name}: there is no {path / CONFIG_FILE}") from missing
    except ValueError as error:
        raise CorruptCheckpoint(f"adapter {name}: {CONFIG_FILE} is not JSON: {error}") from error
    if config.get("peft_type", "LORA") != "LORA":
        raise InvalidRequest(f"adapter {name}: peft_type {config['peft_type']} is not supported, only LORA")
    for field, harmless in _UNSUPPORTED.items():
        if config.get(field) and config[field] not in harmless:
            raise InvalidRequest(f"adapter {name}: {field}={config[field]!r} is not supported by samplers")
    if not (isinstance(config.get("r"), int) and config["r"] > 0 and isinstance(config.get("lora_alpha"), int | float)):
        raise CorruptCheckpoint(f"adapter {name}: {CONFIG_FILE} needs r > 0 and lora_alpha")
    return {"target_modules": None, **config}
