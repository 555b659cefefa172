"""Refusals as the Tinker SDK reads them: `detail`, a sentence that it prints, and a code for programs."""

from __future__ import annotations

from typing import Any

from wire.errors import HeadwayError

_SENT_AGAIN, _SENT_ONCE = 409, 400


def tinker_error(status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """A refusal. Never an empty body: the SDK takes that for a proxy's and sends its request again."""
    return {"detail": message, "code": code}


def tinker_status(error: HeadwayError) -> int:
    """The status of a refusal. The SDK sends a request that got a 409 again for minutes, so that conflicts, which stay
    as they are, get a 400."""
    return _SENT_ONCE if error.status == _SENT_AGAIN else error.status
