"""Futures of requests that were carried out when they were accepted, such as making a run. Their result is in the id.

The SDK treats ids as opaque. What such a one names is looked up for whoever asks, like anything else.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast
from uuid import UUID

from server.catalog.run_ids import run_id
from server.catalog.service import get_callers_model
from server.http.context import Context
from server.principals.callers import Caller
from server.protocols.tinker.shared.schemas import Future
from store.tables import ModelRow

SettledKind: TypeAlias = Literal["model", "load", "unload"]
_TYPES: dict[SettledKind, str] = {"model": "create_model", "load": "load_weights", "unload": "unload_model"}
_ID = re.compile(r"(?P<kind>model|load|unload)-(?P<model>[0-9a-f]{32})(?:-(?P<path>[A-Za-z0-9_=-]*))?")


@dataclass(frozen=True, slots=True)
class Settled:
    """What was done to which run; path: that it was loaded from."""

    kind: SettledKind
    model_id: UUID
    path: str | None = None


def settled_future(kind: SettledKind, run: ModelRow, path: str | None = None) -> Future:
    """The future of what has been done."""
    suffix = f"-{base64.urlsafe_b64encode(path.encode()).decode()}" if path else ""
    return Future(request_id=f"{kind}-{run.id.hex}{suffix}", model_id=run_id(run))


def read_id(request_id: str) -> Settled | None:
    """None for the id of another kind of request."""
    found = _ID.fullmatch(request_id)
    if found is None:
        return None
    try:
        path = base64.urlsafe_b64decode(found["path"]).decode() if found["path"] else None
    except (binascii.Error, UnicodeDecodeError):
        return None
    return Settled(cast("SettledKind", found["kind"]), UUID(found["model"]), path)


async def result(context: Context, caller: Caller, settled: Settled) -> dict[str, Any]:
    """The result. Raises NotFound for another team's."""
    async with context.database.session() as session:
        run = await get_callers_model(session, caller, str(settled.model_id))
    reply = {"type": _TYPES[settled.kind], "model_id": run_id(run)}
    return {**reply, "path": settled.path} if settled.path else reply
