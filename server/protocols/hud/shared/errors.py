"""Refusals as HUD's SDK reads them: `detail`, one sentence that it prints, and a code for programs."""

from __future__ import annotations

from typing import Any


def hud_error(status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """A refusal."""
    return {"detail": message, "code": code}
