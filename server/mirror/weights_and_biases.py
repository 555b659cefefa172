"""Runs in Weights & Biases, one for each model, whose id is the model's. WANDB_MODE=offline works without a network.

What an offline run holds cannot be asked, so how far a model came is kept in a file as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import wandb  # pyright: ignore[reportMissingImports] - an extra that the tests do without

from server.mirror.base import figures, run_name
from store.history import CommittedStep, TrainedModel


def open_target(where: str, state_folder: Path) -> WeightsAndBiases:
    """The project of this name."""
    return WeightsAndBiases(where, state_folder)


class WeightsAndBiases:
    """A Target. A process that dies between a step and the file repeats that step, which W&B drops by its number."""

    def __init__(self, project: str, state_folder: Path) -> None:
        self._project = project
        self._state_folder = state_folder
        self._runs: dict[UUID, Any] = {}

    def num_written(self, model: TrainedModel) -> int:
        """See Target."""
        path = self._path(model)
        if path.exists():
            return json.loads(path.read_text())["num_steps"]
        return max(0, self._run(model).starting_step - 1)

    def write(self, model: TrainedModel, steps: Sequence[CommittedStep]) -> None:
        """See Target."""
        run = self._run(model)
        for step in steps:
            run.log({**figures(step), "checkpoint": step.checkpoint}, step=step.order, commit=True)
        self._note(model, steps[-1].order)

    def close(self) -> None:
        """See Target."""
        for run in self._runs.values():
            run.finish()

    def _run(self, model: TrainedModel) -> Any:
        if model.id not in self._runs:
            self._runs[model.id] = wandb.init(
                project=self._project,
                id=f"headway-{model.id.hex}",
                name=run_name(model),
                config={"model": model.slug, "team": model.team, "base": model.base},
                resume="allow",
                reinit="create_new",
                settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
            )
        return self._runs[model.id]

    def _note(self, model: TrainedModel, num_steps: int) -> None:
        self._state_folder.mkdir(parents=True, exist_ok=True)
        draft = self._path(model).with_suffix(".draft")
        draft.write_text(json.dumps({"num_steps": num_steps}))
        os.replace(draft, self._path(model))

    def _path(self, model: TrainedModel) -> Path:
        return self._state_folder / f"{model.id.hex}.json"
