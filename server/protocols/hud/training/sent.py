"""What a client has sent, held for no longer than it is needed."""

from __future__ import annotations

from typing import Generic, TypeVar

from pydantic import BaseModel

RequestT = TypeVar("RequestT", bound=BaseModel)


class Sent(Generic[RequestT]):
    """A request that was read from `num_bytes`. A batch may be gigabytes, and its call may wait for minutes."""

    def __init__(self, body: RequestT, num_bytes: int) -> None:
        self._body: RequestT | None = body
        self.num_bytes = num_bytes

    @property
    def body(self) -> RequestT:
        """Until it is dropped."""
        assert self._body is not None, "the body was dropped when its operation was in the log"
        return self._body

    def drop(self) -> None:
        """It is in the log."""
        self._body = None
