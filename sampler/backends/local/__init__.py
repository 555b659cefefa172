"""The laptop sampler: continuous batching over the plain transformers model, on the CPU, exact for any mix of
adapters and seeds. See docs/decisions/0003-local-sampler.md for why it exists, and for what it leaves to vLLM."""

from __future__ import annotations

from typing import Any

from sampler.backends.local.backend import LocalBackend, LocalSettings
from wire.process.collector import paused_collector


def open_backend(base: str, **options: Any) -> LocalBackend:
    """A running local backend; `options` are the fields of LocalSettings."""
    with paused_collector():
        return LocalBackend(base, LocalSettings(**options))


__all__ = ["LocalBackend", "LocalSettings", "open_backend"]
