"""Copies of step metrics for tools that people already have. One file a target, and one line in this table."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from server.mirror.base import Target

_MODULES = {"tensorboard": "tensorboard", "wandb": "weights_and_biases", "mlflow": "ml_flow"}


def open_target(address: str, state_folder: Path) -> Target:
    """The target of `KIND:WHERE`. `state_folder`: for targets that cannot be asked what they have.

    Raises ValueError for an address that is none, ModuleNotFoundError for a target whose library is not installed.
    """
    kind, separator, where = address.partition(":")
    if kind not in _MODULES or not separator or not where:
        raise ValueError(f"--to wants tensorboard:DIR, wandb:PROJECT or mlflow:URI, not {address!r}")
    module = import_module(f"server.mirror.{_MODULES[kind]}")
    make: Callable[[str, Path], Target] = module.open_target
    return make(where, state_folder)
