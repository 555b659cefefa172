"""A version of an environment as it lies ready on this machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from runner.environments.targets import Target


@dataclass(frozen=True, slots=True)
class Version:
    """`source`: the folder of its code. `venv`: the virtual environment that it runs in; None: the runner's own Python.
    `keeps_ours`: its code imports our packages."""

    source: Path
    target: Target
    venv: Path | None = None
    keeps_ours: bool = False
    variables: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def source_bytes(self) -> int:
        """Of all files of its source."""
        return sum(path.lstat().st_size for path in self.source.rglob("*"))
