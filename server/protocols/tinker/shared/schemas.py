"""What requests have in common: fields that are not known here are left out, for every release of the SDK adds some."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from wire.bounded import FEW_ENTRIES

Metadata: TypeAlias = Annotated[dict[str, Any], FEW_ENTRIES]
"""What a user notes about a session, a run or a checkpoint: JSON of any kind."""
Label: TypeAlias = Annotated[str, Field(max_length=200)]


class TinkerRequest(BaseModel):
    """A request, of which fields that nobody knows are left out."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class TinkerReply(BaseModel):
    """A reply."""

    model_config = ConfigDict(protected_namespaces=())


class Future(TinkerReply):
    """The promise of a result, which `retrieve_future` brings."""

    request_id: str
    model_id: str | None = None
