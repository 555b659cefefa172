"""What refusals look like on the wire. Each protocol has a shape of its own, which its routes name; the one here is for
routes that belong to none, such as `/readyz`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from pydantic import BaseModel

from wire.errors import HeadwayError

RefusalStatus: TypeAlias = Callable[[HeadwayError], int]
"""The HTTP status with which an error is answered, for protocols whose clients read some otherwise."""


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


def own_status(error: HeadwayError) -> int:
    """The status of the error itself."""
    return error.status
