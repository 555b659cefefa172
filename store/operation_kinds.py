"""The kinds of operation, one row each: what an operation of the kind does to its model, and what its answer is for.

Statements, indexes, invariants and the tree derive from these facts, and name no kind themselves (`tests.rules`). A new
kind is a row here and a handler in `trainer.worker.loop` (docs/architecture.md has the whole list); one that is a
gradient also needs a migration, for the index of pending gradients lists their kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import LiteralString


@dataclass(frozen=True, slots=True)
class OperationKind:
    """What is true of every operation of one kind.

    is_gradient: it adds to the model's accumulated gradient, from when it is done until a step consumes it.
    binds_to_head: it belongs to the weights that it sees when it starts, not to those of when it was accepted.
    consumes_gradients: it applies the gradients before it whose answers were acknowledged, and leaves out the others.
    moves_head: it ends with a new checkpoint, which is the head. It is carried out whether or not its caller is there,
    and a call that repeats it is given its answer only while nothing else has changed the model.
    changes_served: afterwards the model's name may stand for other weights, so that its answer waits for caches.
    saves: it leaves files, and names for them.
    gives_handle: its answer names it for one later operation, while the head stays where it was.
    uses_handle: it is that later operation.
    """

    name: LiteralString
    is_gradient: bool = False
    binds_to_head: bool = False
    consumes_gradients: bool = False
    moves_head: bool = False
    changes_served: bool = False
    saves: bool = False
    gives_handle: bool = False
    uses_handle: bool = False

    @property
    def leaves_only_an_answer(self) -> bool:
        """It has no effect but its answer."""
        return not (self.is_gradient or self.moves_head or self.saves)

    @property
    def changes_model(self) -> bool:
        """Its gradient, weights or moments are others afterwards."""
        return self.is_gradient or self.moves_head


FORWARD_BACKWARD = OperationKind("forward_backward", is_gradient=True)
FORWARD = OperationKind("forward", binds_to_head=True, gives_handle=True)
BACKWARD = OperationKind("backward", is_gradient=True, uses_handle=True)
OPTIM_STEP = OperationKind(
    "optim_step", binds_to_head=True, consumes_gradients=True, moves_head=True, changes_served=True
)
UNPROMOTED_STEP = OperationKind("unpromoted_step", binds_to_head=True, consumes_gradients=True, moves_head=True)
SAVE = OperationKind("save_checkpoint", binds_to_head=True, changes_served=True, saves=True)

KINDS: dict[str, OperationKind] = {
    kind.name: kind for kind in (FORWARD_BACKWARD, FORWARD, BACKWARD, OPTIM_STEP, UNPROMOTED_STEP, SAVE)
}


def _names(fact: Callable[[OperationKind], bool]) -> tuple[LiteralString, ...]:
    return tuple(kind.name for kind in KINDS.values() if fact(kind))


GRADIENTS = _names(lambda kind: kind.is_gradient)
BOUND_TO_HEAD = _names(lambda kind: kind.binds_to_head)
CONSUMERS = _names(lambda kind: kind.consumes_gradients)
HEAD_MOVERS = _names(lambda kind: kind.moves_head)
SERVED_CHANGERS = _names(lambda kind: kind.changes_served)
SAVERS = _names(lambda kind: kind.saves)
HANDLE_GIVERS = _names(lambda kind: kind.gives_handle)
HANDLE_USERS = _names(lambda kind: kind.uses_handle)
ANSWERS_ONLY = _names(lambda kind: kind.leaves_only_an_answer)
MODEL_CHANGERS = _names(lambda kind: kind.changes_model)


def is_any(column: LiteralString, names: tuple[LiteralString, ...]) -> LiteralString:
    """SQL: the kind in this column is one of these."""
    if len(names) == 1:
        return f"{column} = {_quoted(names)}"
    return f"{column} in ({_quoted(names)})" if names else "false"


def is_none(column: LiteralString, names: tuple[LiteralString, ...]) -> LiteralString:
    """SQL: the kind in this column is none of these."""
    return f"{column} <> {_quoted(names)}" if len(names) == 1 else f"not {is_any(column, names)}"


def _quoted(names: tuple[LiteralString, ...]) -> LiteralString:
    return ", ".join(f"'{name}'" for name in names)
