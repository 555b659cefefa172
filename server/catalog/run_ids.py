"""What clients of the Tinker API call a model."""

from __future__ import annotations

import re

from store.tables import ModelRow

_RUN_ID = re.compile(r"(?P<session_id>.{1,200}):train:(?P<index>0|[1-9][0-9]{0,8})")


def run_id(model: ModelRow) -> str:
    """What clients call a model: `SESSION:train:INDEX` where one of their sessions made it, else the model's id."""
    if model.session_id is None:
        return str(model.id)
    return run_id_of(model.session_id, model.session_index or 0)


def run_id_of(session_id: str, index: int) -> str:
    """The id of a session's run so and so."""
    return f"{session_id}:train:{index}"


def parse_run_id(run: str) -> tuple[str, int] | None:
    """The session and the index of such an id; None for anything else."""
    found = _RUN_ID.fullmatch(run)
    return (found["session_id"], int(found["index"])) if found else None
