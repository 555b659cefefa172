"""How many CPU threads a model is worth."""

from __future__ import annotations

import os

_TINY_PARAMETERS = 20_000_000


def threads_for(num_parameters: int) -> int:
    """All cores, but one for a tiny model: its matrices end before a second thread has woken up (measured: a model of
    hidden size 128 is slower on two threads than on one, several times so when the cores are shared)."""
    return 1 if num_parameters < _TINY_PARAMETERS else os.cpu_count() or 1
