"""What forms send, once it is known that the form was ours."""

from __future__ import annotations

import secrets
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from fastapi import Request
from pydantic import BaseModel, ValidationError

from server.pages.shared.sessions import Visitor
from server.values.validation_messages import first_problem
from wire.errors import Forbidden, InvalidRequest

RequestT = TypeVar("RequestT", bound=BaseModel)

_MOST_FIELDS = 50
_MOST_BYTES = 64 * 1024


async def submitted(request: Request, visitor: Visitor) -> dict[str, str]:
    """The fields of a form of this session. Raises Forbidden when it is not, InvalidRequest when it is no form."""
    fields = await submitted_by_anybody(request)
    if not secrets.compare_digest(fields.pop("csrf_token", "").encode(), visitor.csrf_token.encode()):
        raise Forbidden("this form belongs to another session; go back, reload the page, and try again")
    return fields


async def submitted_by_anybody(request: Request) -> dict[str, str]:
    """The fields of a form on one of our pages. Raises Forbidden when another site sent it."""
    _refuse_other_sites(request)
    body = await request.body()
    if len(body) > _MOST_BYTES:
        raise InvalidRequest("the form is larger than any of ours")
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS))
    except ValueError:
        raise InvalidRequest("the form cannot be read; reload the page and try again") from None


def as_request(kind: type[RequestT], values: dict[str, Any]) -> RequestT:
    """What a client of the API would send with these values. Raises InvalidRequest, in the API's words."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InvalidRequest(first_problem(error.errors())) from None


def _refuse_other_sites(request: Request) -> None:
    """Browsers say where a form came from: with Sec-Fetch-Site over https and on localhost, with Origin everywhere."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        is_ours = site in ("same-origin", "none")
    else:
        is_ours = origin is None or _is_origin_of(origin, request.headers.get("host"))
    if not is_ours:
        raise Forbidden("this form was sent by another site; open the page here and try again")


def _is_origin_of(origin: str, host: str | None) -> bool:
    try:
        return urlsplit(origin).netloc == host
    except ValueError:  # no address of any site
        return False
