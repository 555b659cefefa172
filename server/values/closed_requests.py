"""Requests in which an unknown field is refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Closed(BaseModel):
    """A request in which an unknown field is an error."""

    model_config = ConfigDict(extra="forbid")
