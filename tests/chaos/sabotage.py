"""What the harness must notice: promises of the product switched off in one forked process, never in the product."""

from __future__ import annotations

from collections.abc import Callable


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


SABOTAGES: dict[str, Callable[[], None]] = {"fencing": _fencing, "replay": _replay}
"""Besides them there is `fsync`, which only a simulated power cut can show."""
