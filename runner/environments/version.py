"""A version of an environment as it lies ready on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.environments.targets import Target


@dataclass(frozen=True, slots=True)
class Asked:
    """What a deployment asks of its `runtime_config` that applies to a process: caps, which the operator's bound."""

    cpus: float | None = None
    memory_bytes: int | None = None
    start_timeout_s: float | None = None

    @classmethod
    def of(cls, runtime_config: Mapping[str, Any] | None) -> Asked:
        """The server has checked it: numbers are numbers."""
        config = runtime_config or {}
        resources, limits = config.get("resources") or {}, config.get("limits") or {}
        memory_mb = resources.get("memory_mb")
        return cls(
            cpus=resources.get("cpu"),
            memory_bytes=None if memory_mb is None else int(memory_mb * (1 << 20)),
            start_timeout_s=limits.get("startup_timeout_s"),
        )


@dataclass(frozen=True, slots=True)
class Version:
    """`source`: the folder of its code. `venv`: the virtual environment that it runs in; None: the runner's own Python.
    `keeps_ours`: its code imports our packages."""

    source: Path
    target: Target
    venv: Path | None = None
    keeps_ours: bool = False
    variables: dict[str, str] = field(default_factory=dict[str, str])
    asked: Asked = Asked()

    @property
    def folders(self) -> tuple[Path, ...]:
        """Those that it needs."""
        return (self.source,) if self.venv is None else (self.source, self.venv)

    @property
    def source_bytes(self) -> int:
        """Of all files of its source."""
        return sum(path.lstat().st_size for path in self.source.rglob("*"))
