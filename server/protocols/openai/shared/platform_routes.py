"""Routes of OpenAI's API beside the gateway: files and fine-tuning jobs.

Its clients send a request again that was answered with 409, and know no 422: both are answered with 400.
"""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from server.catalog.repository import as_uuid
from server.http.problem import RefusalStatus
from server.protocols.openai.shared.routing import OpenAIRoute
from wire.errors import HeadwayError

_BAD_REQUESTS = (409, 422)


def _status(error: HeadwayError) -> int:
    return 400 if error.status in _BAD_REQUESTS else error.status


class PlatformRoute(OpenAIRoute):
    """See the module."""

    refusal_status: ClassVar[RefusalStatus] = staticmethod(_status)


def id_of(prefix: str, text: str) -> UUID | None:
    """The UUID in an id as clients see it; None: it is none of ours."""
    return as_uuid(text.removeprefix(prefix)) if text.startswith(prefix) else None


def shown_id(prefix: str, value: UUID) -> str:
    """An id as clients see it."""
    return f"{prefix}{value.hex}"
