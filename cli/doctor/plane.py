"""Which plane runs at a place. Commands name it before they know what it takes to examine one."""

from __future__ import annotations

from enum import StrEnum


class Plane(StrEnum):
    """What runs at a place, or is to run there."""

    SERVER = "server"
    TRAINER = "trainer"
    SAMPLER = "sampler"
    RUNNER = "runner"
