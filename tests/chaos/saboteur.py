"""Proof that the harness would notice: a promise is switched off, and the deaths that it guards against follow."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.chaos.box import Box
from tests.chaos.durable_work import lost_without_sync
from tests.chaos.faults import Fault
from tests.chaos.invariants import of_database
from tests.chaos.run import RunReport, differences, run

TELLING: dict[str, list[Fault]] = {
    # The frozen trainer wakes up beside its successor and writes what it was about to write.
    "fencing": [Fault("trainer", "step:before-commit", 1, "stop"), Fault("trainer", "stage:before-commit", 1, "stop")],
    # A gradient was acknowledged, and its trainer dies before the step.
    "replay": [Fault("trainer", "step:before-adamw", 2, "kill"), Fault("trainer", "step:before-adamw", 1, "kill")],
}
_SEED = 0


def noticed_in(box: Box, undisturbed: RunReport, name: str) -> list[str]:
    """What the harness has to say about a box that was sabotaged."""
    known, found = set(of_database(box)), []
    for fault in TELLING[name]:
        report = run(box, _SEED, [fault])
        found += [text for text in differences(report, undisturbed) if text not in known]
        if found:
            break
    return found


def noticed(name: str) -> list[str]:
    """As a user of the driver asks, by one of `sabotage.NAMES`."""
    if name == "fsync":
        with tempfile.TemporaryDirectory() as folder:
            return lost_without_sync(Path(folder))
    from tests.chaos import group_saboteur
    from tests.chaos.driver import open_box

    if name in group_saboteur.BROKEN:
        return group_saboteur.noticed(name)

    with open_box() as box:
        undisturbed = run(box, _SEED)
        box.break_promise(name)
        return noticed_in(box, undisturbed, name)
