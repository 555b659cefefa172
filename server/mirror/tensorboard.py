"""Event files for TensorBoard: a folder for each model.

All figures of a step are one record, so a step is there or not; how far an earlier process came is read off the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue] - generated
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue] - generated
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from server.mirror.base import figures, run_name
from store.history import CommittedStep, TrainedModel


def open_target(where: str, _state_folder: Path) -> TensorBoard:
    """Event files in this folder."""
    return TensorBoard(Path(where))


class TensorBoard:
    """A Target. The x axis is the order of commits; `tree_step` shows rollbacks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[UUID, Any] = {}

    def num_written(self, model: TrainedModel) -> int:
        """See Target."""
        files = self._run(model).glob("events.out.tfevents.*")
        return max((event.step for path in files for event in EventFileLoader(str(path)).Load()), default=0)

    def write(self, model: TrainedModel, steps: Sequence[CommittedStep]) -> None:
        """See Target."""
        writer = self._writers.get(model.id)
        if writer is None:
            writer = self._writers[model.id] = EventFileWriter(str(self._run(model)))
        for step in steps:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in figures(step).items()]
            event = Event(wall_time=step.committed_at.timestamp(), step=step.order, summary=Summary(value=values))
            writer.add_event(event)
        writer.flush()

    def close(self) -> None:
        """See Target."""
        for writer in self._writers.values():
            writer.close()

    def _run(self, model: TrainedModel) -> Path:
        return self._folder / run_name(model)
