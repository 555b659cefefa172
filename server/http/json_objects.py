"""The JSON object that a request carries, as it was sent: for what is sent on to others."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Request

from wire.errors import InvalidRequest
from wire.process.off_loop import off_loop


async def sent_object(request: Request) -> dict[str, Any]:
    """The body, of which a model was made already. Raises InvalidRequest where it is no object."""
    content = await request.body()
    sent = await off_loop(len(content), json.loads, content)
    if not isinstance(sent, dict):
        raise InvalidRequest("the request needs a JSON object")
    return sent
