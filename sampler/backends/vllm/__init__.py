"""vLLM behind the sampler's port: a server in a process and environment of its own, used over HTTP only.

See docs/decisions/0014-vllm-sampler.md for what is checked here because vLLM does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sampler.backends.vllm.backend import VllmBackend


def open_backend(base: str, **options: Any) -> VllmBackend:
    """A backend whose vLLM is ready; `options` are the fields of VllmSettings."""
    # Here, for commands read the options of VllmSettings where transformers is not installed.
    from sampler.backends.vllm.backend import VllmBackend
    from sampler.backends.vllm.settings import VllmSettings

    return VllmBackend(base, VllmSettings(**options))
