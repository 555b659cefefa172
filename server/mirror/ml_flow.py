"""Runs in MLflow, one for each model, found again by a tag. The experiment is MLFLOW_EXPERIMENT_NAME, or `headway`.

`tree_step` is written last: a step that has it is complete. One that a killed process left half written is completed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from server.mirror.base import figures, run_name
from store.history import CommittedStep, TrainedModel

_TAG = "headway.model_id"
_LAST = "tree_step"


def open_target(where: str, _state_folder: Path) -> MlFlow:
    """The tracking server or store at this URI. Raises ValueError if MLflow refuses it."""
    try:
        return MlFlow(where)
    except MlflowException as error:
        raise ValueError(f"MLflow does not take {where!r}: {error.message}") from error


class MlFlow:
    """A Target."""

    def __init__(self, uri: str) -> None:
        self._client = MlflowClient(tracking_uri=uri)
        self._experiment_id = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or "headway")
        self._runs: dict[UUID, str] = {}
        self._half_written: dict[UUID, set[str]] = {}

    def num_written(self, model: TrainedModel) -> int:
        """See Target."""
        run_id = self._run(model)
        written = max((metric.step for metric in self._client.get_metric_history(run_id, _LAST)), default=0)
        names = self._client.get_run(run_id).data.metrics
        histories = {name: self._client.get_metric_history(run_id, name) for name in names if name != _LAST}
        self._half_written[model.id] = {
            name for name, history in histories.items() if any(metric.step > written for metric in history)
        }
        return written

    def write(self, model: TrainedModel, steps: Sequence[CommittedStep]) -> None:
        """See Target."""
        for step in steps:
            there = self._half_written.pop(model.id, set[str]())
            values = {name: value for name, value in figures(step).items() if name not in there}
            values[_LAST] = values.pop(_LAST)
            at = int(step.committed_at.timestamp() * 1000)
            metrics = [Metric(name, value, at, step.order) for name, value in values.items()]
            self._client.log_batch(self._run(model), metrics=metrics)

    def close(self) -> None:
        """See Target. Runs stay open: their models may be trained on."""

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found is not None else self._client.create_experiment(name)

    def _run(self, model: TrainedModel) -> str:
        if model.id not in self._runs:
            found = self._client.search_runs([self._experiment_id], f"tags.`{_TAG}` = '{model.id}'", max_results=1)
            self._runs[model.id] = found[0].info.run_id if found else self._new_run(model)
        return self._runs[model.id]

    def _new_run(self, model: TrainedModel) -> str:
        tags = {
            _TAG: str(model.id),
            "headway.model": model.slug,
            "headway.team": model.team,
            "headway.base": model.base,
        }
        return self._client.create_run(self._experiment_id, tags=tags, run_name=run_name(model)).info.run_id
