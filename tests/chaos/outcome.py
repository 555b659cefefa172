"""What is left of a model when its program has ended: op log, tree and files, without the names that are drawn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tests.chaos.program import Progress, deterministic
from tests.supervised.service import Service
from wire.payload import decode

_OPERATIONS = """
    select o.id, o.sequence, o.kind, o.state, o.error_code, o.result, c.sequence as consumed_by, f.sequence as forward
    from operations o
    left join operations c on c.id = o.consumed_by_id
    left join operations f on f.id = o.forward_id
    where o.model_id = %(model_id)s order by o.sequence
"""
PARTS = ("operations", "tree", "head", "answers")
_CHECKPOINTS = "select * from checkpoints where model_id = %(model_id)s and status = 'committed' order by created_at"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Two undisturbed runs of one program have equal ones, whatever they run beside."""

    operations: list[Any]
    tree: dict[str, Any]
    head: str | None
    answers: list[Any]

    def differences(self, expected: Outcome, parts: Sequence[str] = PARTS) -> list[str]:
        """In words, where this is not what an undisturbed run left."""
        mine, theirs = ({part: asdict(each)[part] for part in parts} for each in (self, expected))
        return [
            f"{part}: {where}: {found} instead of {wanted}"
            for part in mine
            for where, found, wanted in _compare(mine[part], theirs[part])
        ]


def outcome(box: Service, model_id: str, progress: Progress) -> Outcome:
    """Read off the database and the checkpoint store."""
    operations = box.query(_OPERATIONS, model_id=model_id)
    checkpoints = box.query(_CHECKPOINTS, model_id=model_id)
    (model,) = box.query("select head_checkpoint_id as head from models where id = %(model_id)s", model_id=model_id)
    labels = _labels(operations)
    tree = {
        labels.get(row.id, f"{row.name}, which no step returned"): {
            "parent": labels.get(row.parent_id),
            "step": row.step,
            "files": files_of(box, model_id, row),
            "metrics": deterministic(row.metrics),
            "counts": [row.num_traces, row.num_datums, row.num_tokens, row.mean_reward, row.learning_rate, row.loss_fn],
        }
        for row in checkpoints
    }
    log = [[row.sequence, row.kind, row.state, row.error_code, row.consumed_by, row.forward] for row in operations]
    return Outcome(log, tree, labels.get(model.head), json.loads(json.dumps(progress.answers)))


def _labels(operations: list[Any]) -> dict[Any, str]:
    """A checkpoint is called after the step that returned it, and steps are counted."""
    import uuid

    steps = [row for row in operations if row.kind == "optim_step" and row.result is not None]
    made = (uuid.UUID(decode(bytes(row.result))[0]["checkpoint_id"]) for row in steps)
    return {checkpoint_id: f"call {number} of optim_step" for number, checkpoint_id in enumerate(made, 1)}


def files_of(box: Service, model_id: str, row: Any) -> dict[str, str]:
    """SHA-256 of the files as they are, which must be as the manifest in the database says."""
    folder = box.checkpoints / model_id.replace("-", "") / row.files_id.hex
    found = {}
    for path, expected in row.manifest["files"].items():
        data = (folder / path).read_bytes() if (folder / path).exists() else b""
        found[path] = hashlib.sha256(data).hexdigest()
        if found[path] != expected["sha256"]:
            found[path] += " (not what its manifest says)"
    return found


def _compare(found: Any, wanted: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in [*wanted, *(k for k in found if k not in wanted)]:
            yield from _compare(found.get(key, "nothing"), wanted.get(key, "nothing"), f"{where}/{key}")
    elif isinstance(found, list) and isinstance(wanted, list):
        for index in range(max(len(found), len(wanted))):
            pair = (rows[index] if index < len(rows) else "nothing" for rows in (found, wanted))
            yield from _compare(*pair, f"{where}/{index}")
    elif found != wanted and not (found != found and wanted != wanted):
        yield where, found, wanted
