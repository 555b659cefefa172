"""A session as files, all of them safetensors or JSON: nothing is ever unpickled.

The adapter folder is in PEFT's layout, which vLLM and PEFT load: `adapter_config.json`, `adapter_model.safetensors`.
The state folder has what training needs to go on bit for bit: `state.safetensors` with the flat master weights and
moments, and in its header the step count, the LoRA shape and the layout of the buffers. Equal sessions give equal
bytes. Durability (fsync, manifest, sha256) belongs to the store.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from trainer.engine.finite import all_finite
from trainer.engine.lora import LiveAdapter
from trainer.engine.lora_layout import LoraLayout
from trainer.engine.session import Session
from wire.canary import Canary
from wire.engine import LoraConfig
from wire.errors import CorruptCheckpoint, NonFinite

_ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER_WEIGHTS = "adapter_model.safetensors"
_STATE = "state.safetensors"
_STATE_VERSION = 1
_BUFFERS = ("weights", "exp_avg", "exp_avg_sq")
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


@dataclass(frozen=True, slots=True, eq=False)
class SessionSnapshot:
    """A session in host memory, as it is saved. served: the flat weights in the precision that a sampler computes in.

    buffers: flat master weights and moments by name. On a CPU they are the session's own, which a step replaces and
    never writes to.
    """

    lora: LoraConfig
    layout: LoraLayout
    num_steps: int
    served: torch.Tensor
    buffers: Mapping[str, torch.Tensor]
    config_text: str
    canary: Canary | None

    @classmethod
    def of(
        cls, session: Session, live: LiveAdapter, base_name: str, dtype: torch.dtype, canary: Canary | None
    ) -> SessionSnapshot:
        """Raises NonFinite for weights that `dtype`, that of samplers, does not hold."""
        served = session.weights.to(device="cpu", dtype=dtype)
        if not all_finite(served):
            raise NonFinite(f"this step would leave weights that {dtype} does not hold; lower the learning_rate")
        buffers = {name: getattr(session, name).cpu() for name in _BUFFERS}
        config_text = _config_text(live, base_name)
        return cls(session.lora, session.layout, session.num_steps, served, buffers, config_text, canary)

    def write(self, adapter: Path, state: Path) -> None:
        """Write both folders. Raises OSError if the disk refuses."""
        (adapter / _ADAPTER_CONFIG).write_text(self.config_text)
        tensors = dict(zip(self.layout.names, self.layout.views(self.served), strict=True))
        _write_tensors(tensors, adapter / _ADAPTER_WEIGHTS, {"format": "pt"})
        if self.canary is not None:
            self.canary.write(adapter)
        self._write_state(state)

    def _write_state(self, folder: Path) -> None:
        about = {
            "version": _STATE_VERSION,
            "num_steps": self.num_steps,
            "init_seed": self.lora.init_seed,
            **_shape(self.lora),
            **_layout(self.layout),
        }
        # One key: safetensors writes several in an order of its own.
        _write_tensors(dict(self.buffers), folder / _STATE, {"headway": json.dumps(about)})


@cache
def _config_text(live: LiveAdapter, base_name: str) -> str:
    """The same for every checkpoint of a shape; PEFT copies it deeply, which takes longer than writing it."""
    config = {key: _plain(value) for key, value in live.config.to_dict().items()}
    # vLLM matches target_modules by suffix; sorted, since PEFT keeps a set and bytes must not depend on hashes.
    config |= {"base_model_name_or_path": base_name, "inference_mode": True}
    return json.dumps(config, indent=2, sort_keys=True) + "\n"


def load_session(
    lora: LoraConfig,
    layout: LoraLayout,
    adapter: Path | None,
    state: Path | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Session:
    """A session without gradient: from the state, else from the adapter with fresh moments, else from the seed.

    Raises CorruptCheckpoint for files that are missing, unreadable or not of this LoRA shape.
    """
    if adapter is not None:
        _check_adapter_config(adapter, lora)
    if state is not None:
        return _load_state(lora, layout, state, dtype, device)
    flat = layout.fresh_weights(lora.init_seed) if adapter is None else _load_adapter(layout, adapter)
    return Session.starting_from(lora, layout, flat.to(device=device, dtype=dtype))


def _load_adapter(layout: LoraLayout, folder: Path) -> torch.Tensor:
    tensors = _read_tensors(folder / _ADAPTER_WEIGHTS)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    expected = dict(zip(layout.names, layout.shapes, strict=True))
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise CorruptCheckpoint(
                f"{_ADAPTER_WEIGHTS}: {name} is {found.get(name, 'missing')}, expected {expected.get(name, 'nothing')}"
            )
    return torch.cat([tensors[name].flatten() for name in layout.names])


def _load_state(
    lora: LoraConfig, layout: LoraLayout, folder: Path, dtype: torch.dtype, device: torch.device
) -> Session:
    about = _read_about(folder / _STATE)
    for key, value in {"version": _STATE_VERSION, **_shape(lora), **_layout(layout)}.items():
        if about.get(key) != value:
            raise CorruptCheckpoint(f"{_STATE}: its {key} is not that of this model")
    buffers = _read_tensors(folder / _STATE)
    for name in _BUFFERS:
        if name not in buffers or buffers[name].shape != (layout.num_parameters,):
            raise CorruptCheckpoint(f"{_STATE}: {name} is missing or has a wrong length")
    # Copies: safetensors maps the file, and a store may replace or prune it while the session lives.
    owned = {name: buffers[name].to(device=device, dtype=dtype, copy=True) for name in _BUFFERS}
    session = Session.starting_from(lora, layout, owned["weights"])
    session.exp_avg, session.exp_avg_sq = owned["exp_avg"], owned["exp_avg_sq"]
    session.num_steps = about["num_steps"]
    if not all(map(all_finite, owned.values())):
        raise CorruptCheckpoint(f"{_STATE}: it holds numbers that are not finite")
    return session


def _check_adapter_config(folder: Path, lora: LoraConfig) -> None:
    try:
        config = json.loads((folder / _ADAPTER_CONFIG).read_text())
        found = (config["r"], config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptCheckpoint(f"{_ADAPTER_CONFIG} cannot be read: {error}") from error
    if found != (lora.rank, lora.alpha):
        raise CorruptCheckpoint(
            f"{_ADAPTER_CONFIG}: rank and alpha are {found}, this model's are {(lora.rank, lora.alpha)}"
        )


def _read_about(path: Path) -> Mapping[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["headway"])
            return {**about, "num_steps": int(about["num_steps"])}
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CorruptCheckpoint(f"{path.name} cannot be read: {error}") from error


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CorruptCheckpoint(f"{path.name} cannot be read: {error}") from error


def _write_tensors(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:
        number = _OS_ERROR.search(str(error))  # safetensors has no other way to say that the disk is full
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def _shape(lora: LoraConfig) -> dict[str, Any]:
    return {"rank": lora.rank, "alpha": lora.alpha}


def _layout(layout: LoraLayout) -> dict[str, Any]:
    return {"layout": [[name, *shape] for name, shape in zip(layout.names, layout.shapes, strict=True)]}


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else value
