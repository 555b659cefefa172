"""How long processes take to end, for those who end them."""

from __future__ import annotations

DRAIN_S = 30.0
"""After SIGTERM, a sampler finishes what is under way for so long."""
STOP_S = 20.0
"""What a process needs to end besides that: its vLLM gets 12 s."""

GAVE_UP_STATUS = 78
"""Exit status of a process that would fail again in the same way (EX_CONFIG of sysexits.h): it is not started again."""


class GaveUp(OSError):
    """What this process keeps has died too often."""
