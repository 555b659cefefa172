"""What refusals look like on the wire. Each protocol has a shape of its own, which its routes name; the one here is for
routes that belong to none, such as `/readyz`."""

from __future__ import annotations

from typing import Any, Protocol

from pydantic import BaseModel


class ErrorBody(Protocol):
    """A refusal as a protocol's clients read it. `param`: the field that it is about, where that is known."""

    def __call__(self, status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]: ...


class Problem(BaseModel):
    """What happened and what to do next, in one sentence, and a stable code for programs."""

    detail: str
    code: str


def problem(status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """As `Problem`."""
    return {"detail": message, "code": code}
