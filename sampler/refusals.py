"""A refusal as a sampler's HTTP interface gives it."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse

from sampler.pictures.holding import PicturesMissing
from wire.errors import HeadwayError


def error_response(error: HeadwayError) -> JSONResponse:
    """Its code, its sentence, and the field of the request that it is about, where it is about one; of missing pictures
    the names."""
    headers: dict[str, str] = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    content: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.param is not None:
        content["param"] = error.param
    if isinstance(error, PicturesMissing):
        content["names"] = error.names
    return JSONResponse(content, error.status, headers)
