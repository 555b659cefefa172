"""vLLM behind the sampler's port: a server in a process and environment of its own, used over HTTP only.

See docs/decisions/0014-vllm-sampler.md for what is checked here because vLLM does not.
"""

from __future__ import annotations

from typing import Any

from sampler.backends.vllm.backend import VllmBackend
from sampler.backends.vllm.settings import VllmSettings


def open_backend(base: str, **options: Any) -> VllmBackend:
    """A backend whose vLLM is ready; `options` are the fields of VllmSettings."""
    return VllmBackend(base, VllmSettings(**options))


__all__ = ["VllmBackend", "VllmSettings", "open_backend"]
