"""For how long a name of a checkpoint may be kept."""

from __future__ import annotations

from wire.errors import InvalidRequest

_SHORTEST_S, _LONGEST_S = 3600, 10 * 366 * 24 * 3600


def check_ttl(ttl_seconds: float) -> None:
    """Raises InvalidRequest for less than an hour or more than ten years."""
    if not _SHORTEST_S <= ttl_seconds <= _LONGEST_S:
        raise InvalidRequest(
            f"ttl_seconds is {ttl_seconds}; it may be {_SHORTEST_S} (an hour) to {_LONGEST_S} (ten years)"
        )
