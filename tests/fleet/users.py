"""Users of an installation while a test does something to it."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fleet.installation import Installation

BASE = "tiny-arith"


@dataclass
class Load:
    """Users of the service while the block runs; afterwards what became of their requests."""

    done: dict[str, int] = field(default_factory=dict)
    failures: list[Any] = field(default_factory=list)


@contextmanager
def load(headway: Installation, folder: Path, users: int = 3, tokens: int = 32) -> Generator[Load]:
    process, log = headway.start(folder, "-m", "tests.fleet.load", BASE, str(users), str(tokens)), folder / "log"
    result = Load()
    time.sleep(3)  # until its interpreter asks
    assert process.poll() is None, log.read_text()
    yield result
    process.signal(signal.SIGTERM)
    assert process.wait(180) == 0, log.read_text()
    said = json.loads(log.read_text().splitlines()[-1])
    result.done, result.failures = said["done"], said["failures"]
