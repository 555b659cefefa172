"""Each error says whether it may be the end of an operation, and so the answer of an Idempotency-Key for ever."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from wire.errors import FINAL, UNTIL_MENDED, HeadwayError, LeaseLost, TrainerLost

ROOT = Path(__file__).parents[3]
PLANES = ("wire", "store", "server", "trainer", "sampler")
DERIVED = re.compile(r"^class \w+\((?:\w+, )*(\w+)(?:, \w+)*\):", re.MULTILINE)


def errors() -> list[type[HeadwayError]]:
    """Every error of ours, once the modules that derive from one are loaded."""
    num_known = 0
    while num_known < len(known := {cls.__name__ for cls in subclasses(HeadwayError)}):
        num_known = len(known)
        for path in (path for plane in PLANES for path in (ROOT / plane).rglob("*.py")):
            if known.intersection(DERIVED.findall(path.read_text())):
                importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    return [cls for cls in subclasses(HeadwayError) if cls.__module__.partition(".")[0] in PLANES]


def subclasses(cls: type[HeadwayError]) -> Iterator[type[HeadwayError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from subclasses(child)


def undecided(cls: type[HeadwayError]) -> bool:
    """A code of its own is an answer of its own, which cannot inherit how final it is."""
    return "code" in vars(cls) and "tries" not in vars(cls)


def contradictory(cls: type[HeadwayError]) -> bool:
    """What a client hears must fit: a 5xx passes, or is a fault of ours; other refusals are of the request."""
    if cls in (TrainerLost, LeaseLost):  # the end of a few deaths; nobody sees the other
        return False
    return cls.tries == FINAL if cls.status >= 500 else cls.tries != FINAL and cls.status != 429


def test_every_error_says_how_final_it_is():
    found = errors()
    assert len(found) > 20
    assert [cls.__name__ for cls in found if undecided(cls)] == []
    assert [cls.__name__ for cls in found if contradictory(cls)] == []


def test_an_error_that_does_not_decide_is_noticed():
    class DiskWentAway(HeadwayError):
        code = "disk_went_away"

    class DiskIsFull(HeadwayError):
        status, code, tries = 503, "disk_is_full", FINAL

    assert undecided(DiskWentAway)
    assert contradictory(DiskIsFull)


@pytest.mark.parametrize("code", ["unavailable", "timed_out", "spill_lost", "corrupt_checkpoint", "interrupted"])
def test_troubles_that_pass_are_no_end(code: str):
    assert {cls.tries for cls in subclasses(HeadwayError) if cls.code == code} == {UNTIL_MENDED}
