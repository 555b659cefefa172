"""What generates. A new backend is one module (or package) with `open_backend(base, **options)`, and one line here."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sampler.backends.base import SamplerBackend, SamplerInfo

# Modules, not classes: a sampler with vLLM beside it has no use for torch.
BACKENDS: dict[str, str] = {
    "local": "sampler.backends.local",
    "vllm": "sampler.backends.vllm",
}


def open_backend(name: str, base: str, **options: Any) -> SamplerBackend:
    """The named backend on a base model (a folder or a hub name); `options` are fields of that backend's settings.

    Raises ValueError for an unknown backend, and whatever the backend raises for a base that it cannot serve.
    """
    if name not in BACKENDS:
        raise ValueError(f"no sampler backend {name!r}; known: {', '.join(BACKENDS)}")
    return import_module(BACKENDS[name]).open_backend(base, **options)


__all__ = ["BACKENDS", "SamplerBackend", "SamplerInfo", "open_backend"]
