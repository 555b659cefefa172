"""One sentence for each thing that pydantic finds wrong: what the SDK prints as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def first_problem(errors: Sequence[Mapping[str, Any]]) -> str:
    """The first error in words, naming the field as the client wrote it (`inputs[3].reward`)."""
    error = errors[0]
    kind, field = error["type"], field_name(error["loc"])
    if kind == "json_invalid":
        return f"the body is not valid JSON: {error.get('ctx', {}).get('error', error['msg'])}"
    if kind == "missing":
        return f"{field} is missing" if field else "the request needs a JSON body"
    if kind == "extra_forbidden":
        return f"unknown field {field}"
    if kind in ("model_attributes_type", "model_type", "dict_type") and not field:
        return "the body must be a JSON object, sent as Content-Type: application/json"
    problem = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    return f"{field or 'the body'}: {problem[:1].lower()}{problem[1:]}"


def field_name(location: Sequence[int | str]) -> str:
    """`("inputs", 3, "reward")` as `inputs[3].reward`. Where a request part comes first, it is left out."""
    parts = list(location)
    if parts and parts[0] in ("body", "query", "path", "header"):
        parts = parts[1:]
    name = ""
    for part in parts:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else str(part)
    return name
