"""What an operator has runs do where a request does not say: a file of settings for each base. `hud rl run` has no
options at all, and the learning rate that suits one base ruins another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from server.runs.settings import RunConfig
from wire.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class RunDefaults:
    """`by_base`: fields of `RunConfig` by a base's slug."""

    by_base: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])

    @classmethod
    def read(cls, file: Path | None) -> RunDefaults:
        """From JSON like {"qwen3-0.6b": {"learning_rate": 2e-5, "steps": 100}}. Raises ValueError, OSError."""
        if file is None:
            return cls()
        try:
            by_base = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(by_base, dict):
                raise ValueError("it should be an object of settings by the slug of a base")
            return cls({base: _checked(base, settings) for base, settings in by_base.items()})
        except ValueError as error:
            raise ValueError(f"run defaults in {file}: {error}") from None

    def laid_under(self, config: RunConfig, base: str, num_tasks: int) -> RunConfig:
        """The config, with the operator's value for what was not said. Fewer tasks than a step should have are all
        taken. Raises InvalidRequest where both together do not fit."""
        defaults = dict(self.by_base.get(base, {}))
        if (defaults.get("tasks_per_step") or 0) > num_tasks:
            del defaults["tasks_per_step"]
        said = config.model_dump(include=config.model_fields_set)
        try:
            return RunConfig(**{**defaults, **said})
        except ValidationError as error:
            raise InvalidRequest(f"config, with this server's defaults for {base!r}: {_first(error)}") from None


def _checked(base: str, settings: Any) -> dict[str, Any]:
    if not isinstance(settings, dict):
        raise ValueError(f"the settings of {base!r} should be an object")
    try:
        RunConfig(**settings)
    except ValidationError as error:
        raise ValueError(f"the settings of {base!r}: {_first(error)}") from None
    return settings


def _first(error: ValidationError) -> str:
    """The first fault, with the name of the setting."""
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"])
    said = str(fault.get("ctx", {}).get("error", fault["msg"]))
    return f"{where}: {said}" if where else said
