"""Going on where a stopped demo stopped: at the last step whose figures and whose checkpoint both exist."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples.figures import RunFigures

if TYPE_CHECKING:
    from hud import TrainingClient


def unfinished(folder: Path, settings: dict[str, Any]) -> RunFigures | None:
    """The figures of a run with the same settings that has taken a step and has not come to its end."""
    found = RunFigures.load(folder)
    if found is None or found.finished or not found.steps or found.settings != settings:
        return None
    return found


async def return_to_last_step(trainer: TrainingClient, figures: RunFigures) -> bool:
    """Move the head to the last step that the figures know, which drops gradients behind it; cut the figures where
    their checkpoints are gone. False where this service knows no checkpoint of theirs."""
    from hud.utils.exceptions import HudException

    try:
        known = {checkpoint.id for checkpoint in await trainer.checkpoints()}
    except HudException:  # another data directory: the model is unknown there
        return False
    figures.steps = [step for step in figures.steps if step.checkpoint_id in known]
    if not figures.steps:
        return False
    last = figures.steps[-1]
    figures.held_out = [score for score in figures.held_out if score.step <= last.step]
    await trainer.set_head(last.checkpoint_id)
    return True
