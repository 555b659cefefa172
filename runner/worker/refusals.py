"""What a server answers a runner instead of what it asked for."""

from __future__ import annotations


class KeyRefused(Exception):
    """401 or 403: the key is unknown, revoked, expired or not a runner's. Another try would be answered the same."""


class RunnerUnknown(Exception):
    """The server does not know this runner, or gave what it held to others after silence: register again."""


class Lost(Exception):
    """The runner does not hold this attempt any more: whatever it did is dropped."""


class Refused(Exception):
    """Any other 4xx."""


class Away(Exception):
    """The server does not answer, or with a status that passes. Another try may help."""
