"""What the harness must notice: promises of the product switched off in one forked process, never in the product."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager

_VOTE_LEFT_OUT = 60


def apply(name: str) -> None:
    """Break this process. Raises KeyError for a sabotage that does not exist."""
    SABOTAGES[name]()


def _fencing() -> None:
    """Writes ask neither for the lease's token nor for the state in which they left things."""
    from store.oplog import statements

    for statement in ("FINISH", "STAGE", "COMMIT"):
        text: str = getattr(statements, statement)
        for guard in (
            " and token = %(token)s",
            " and head_version = %(head_version)s",
            " and state = 'running'",
            " and status = 'staged'",
        ):
            text = text.replace(guard, "")
        setattr(statements, statement, text)


def _replay() -> None:
    """A trainer that takes a model over does not accumulate again what was acknowledged."""
    from trainer.worker.passes import Passes

    Passes.replay = lambda *_: None  # type: ignore[method-assign]


def _order() -> None:
    """Each rank adds its own shards, and an all-reduce adds what came of it."""
    import torch
    import torch.distributed as dist

    from trainer.distributed.ordered_sum import OrderedSum

    def total(self: OrderedSum) -> torch.Tensor:
        partial = torch.zeros_like(self._like)
        for shard in sorted(self._mine):
            partial += self._mine[shard]
        dist.all_reduce(partial)
        return partial

    OrderedSum.total = total  # type: ignore[method-assign]


def _vote() -> None:
    """Rank 1 leaves one vote out, when it has trained for a while."""
    from contextlib import nullcontext

    from trainer.distributed.group import RankGroup

    agreed, votes = RankGroup.agreed, itertools.count()

    def sometimes_agreed(self: RankGroup) -> AbstractContextManager[None]:
        return nullcontext() if self.rank == 1 and next(votes) == _VOTE_LEFT_OUT else agreed(self)

    RankGroup.agreed = sometimes_agreed  # type: ignore[method-assign,assignment]


def _settings() -> None:
    """Whoever computes a gradient again plans it by its own settings."""
    from trainer.worker.passes import Passes

    Passes._plan = lambda self, _recorded, _operation, datums, num_substeps=1: self._engine.plan(  # type: ignore[method-assign]
        datums, num_substeps
    )


SABOTAGES: dict[str, Callable[[], None]] = {
    "fencing": _fencing,
    "replay": _replay,
    "order": _order,
    "vote": _vote,
    "settings": _settings,
}
NAMES = (*SABOTAGES, "fsync")
"""Every promise that can be switched off. Only a simulated power cut shows that of fsync; those of the ranks of a group
are order, vote and settings."""
