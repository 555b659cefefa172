"""How far what sampled a rollout is from what is trained now."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from store.database import AsyncConnection

_CHECKPOINTS = """
    select c.id, c.model_id, c.files_id, c.step from checkpoints c
    where c.status = 'committed' and (c.model_id = %(model_id)s or c.id = any(%(ids)s))
"""
_MODELS = """
    select m.id, coalesce(m.base_id, m.id) as base_id, m.head_checkpoint_id from models m
    where m.id = any(%(ids)s)
"""


@dataclass(frozen=True, slots=True)
class Lineage:
    """A model's tree, by the files of its nodes: a fork's root has those of the node that it was forked from.

    bases: of every model asked about. files: of every checkpoint asked about. steps: of the model's own nodes, by their
    files; None: the base weights, step 0. head: the files of the head.
    """

    bases: dict[UUID, UUID]
    files: dict[UUID, UUID]
    steps: dict[UUID | None, int]
    head: UUID | None

    def staleness(self, checkpoint_id: UUID | None) -> int | None:
        """Optimizer steps between a checkpoint (None: the base weights) and the head. 0 for the head itself alone: a
        node of another branch is at least one step away. None where it is of another model."""
        files = self.files.get(checkpoint_id) if checkpoint_id is not None else None
        if checkpoint_id is not None and files is None:
            return None
        if files == self.head:
            return 0
        if files not in self.steps:
            return None
        return max(1, abs(self.steps[self.head] - self.steps[files]))


async def find_lineage(
    connection: AsyncConnection, model_id: UUID, checkpoint_ids: Iterable[UUID], model_ids: Iterable[UUID]
) -> Lineage:
    """What is needed to judge samples of these checkpoints and models by, for training this model. Two statements."""
    asked_models = {"ids": list({model_id, *model_ids})}
    models = {row.id: row for row in await (await connection.execute(_MODELS, asked_models)).fetchall()}
    asked = {"model_id": model_id, "ids": list(set(checkpoint_ids))}
    checkpoints = await (await connection.execute(_CHECKPOINTS, asked)).fetchall()
    files = {row.id: row.files_id for row in checkpoints}
    steps: dict[UUID | None, int] = {None: 0}
    steps.update({row.files_id: row.step for row in checkpoints if row.model_id == model_id})
    head_id = models[model_id].head_checkpoint_id
    return Lineage(
        {row.id: row.base_id for row in models.values()}, files, steps, files[head_id] if head_id is not None else None
    )
