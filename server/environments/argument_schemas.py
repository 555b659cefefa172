"""Whether arguments fit the JSON schema of a task. The schema comes from users' code, so only keywords are looked at
whose cost is bounded: no patterns, no formats, no references but those into its own `$defs`. What it does not look at
fits: the environment itself has the last word."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

_MAX_STEPS = 20_000
"""Of one check; after them everything fits."""
_MAX_DEPTH = 64

Schema = Mapping[str, Any]

_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "integer": lambda value: (
        (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())
    ),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}


def first_misfit(args: Mapping[str, Any], schema: Any) -> str | None:
    """What does not fit, in words; None where everything does, or there is no schema."""
    if not isinstance(schema, dict):
        return None
    root = cast(Schema, schema)
    return _Check(root).misfit(dict(args), root, "args", 0)


class _Check:
    def __init__(self, root: Schema) -> None:
        definitions = root.get("$defs")
        self._definitions = cast(Schema, definitions) if isinstance(definitions, dict) else {}
        self._steps = 0

    def misfit(self, value: Any, schema: Any, where: str, depth: int) -> str | None:
        """Of a value that stands at `where`."""
        self._steps += 1
        if not isinstance(schema, dict) or depth > _MAX_DEPTH or self._steps > _MAX_STEPS:
            return None
        known = cast(Schema, schema)
        if isinstance(reference := known.get("$ref"), str):
            target = self._definitions.get(reference.removeprefix("#/$defs/"))
            if found := self.misfit(value, target, where, depth + 1):
                return found
        return (
            _plain_misfit(value, known, where)
            or self._of_alternatives(value, known, where, depth)
            or self._of_members(value, known, where, depth)
        )

    def _of_alternatives(self, value: Any, schema: Schema, where: str, depth: int) -> str | None:
        for every in _schemas(schema.get("allOf")):
            if found := self.misfit(value, every, where, depth + 1):
                return found
        for keyword in ("anyOf", "oneOf"):
            choices = _schemas(schema.get(keyword))
            if choices:
                misfits = [self.misfit(value, choice, where, depth + 1) for choice in choices]
                if all(misfits):
                    return misfits[0] if len(misfits) == 1 else f"{where} fits none of its {len(misfits)} forms"
        return None

    def _of_members(self, value: Any, schema: Schema, where: str, depth: int) -> str | None:
        if isinstance(value, list):
            for index, item in enumerate(cast(list[Any], value)):
                if found := self.misfit(item, schema.get("items"), f"{where}[{index}]", depth + 1):
                    return found
        if not isinstance(value, dict):
            return None
        members = cast(dict[str, Any], value)
        properties = schema.get("properties")
        known = cast(Schema, properties) if isinstance(properties, dict) else {}
        for required in _texts(schema.get("required")):
            if required not in members:
                return f"{where} lacks {required!r}"
        others = schema.get("additionalProperties")
        for name, item in members.items():
            if name not in known and others is False:
                return f"{where} has no {name[:100]!r}; it takes {', '.join(map(repr, known)) or 'nothing'}"
            if found := self.misfit(item, known.get(name, others), f"{where}.{name[:100]}", depth + 1):
                return found
        return None


def _plain_misfit(value: Any, schema: Schema, where: str) -> str | None:
    kinds = schema.get("type")
    wanted = [kinds] if isinstance(kinds, str) else _texts(kinds)
    if wanted and all(kind in _TYPES for kind in wanted) and not any(_TYPES[kind](value) for kind in wanted):
        return f"{where} must be {' or '.join(wanted)}"
    if isinstance(choices := schema.get("enum"), list) and value not in cast(list[Any], choices):
        return f"{where} is none of {', '.join(str(choice)[:50] for choice in cast(list[Any], choices)[:10])}"
    if "const" in schema and value != schema["const"]:
        return f"{where} must be {str(schema['const'])[:50]}"
    return _bound_misfit(value, schema, where)


def _bound_misfit(value: Any, schema: Schema, where: str) -> str | None:
    bounds: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {}
    if isinstance(value, int | float) and not isinstance(value, bool):
        bounds = {
            "minimum": ("at least", lambda had, bound: had >= bound),
            "maximum": ("at most", lambda had, bound: had <= bound),
            "exclusiveMinimum": ("more than", lambda had, bound: had > bound),
            "exclusiveMaximum": ("less than", lambda had, bound: had < bound),
        }
    elif isinstance(value, str):
        bounds = {
            "minLength": ("at least as long as", lambda had, bound: len(had) >= bound),
            "maxLength": ("at most as long as", lambda had, bound: len(had) <= bound),
        }
    for keyword, (words, fits) in bounds.items():
        bound = schema.get(keyword)
        if isinstance(bound, int | float) and not fits(value, bound):
            return f"{where} must be {words} {bound}"
    return None


def _schemas(value: Any) -> Sequence[Any]:
    return cast(list[Any], value) if isinstance(value, list) else ()


def _texts(value: Any) -> list[str]:
    return [one for one in cast(list[Any], value) if isinstance(one, str)] if isinstance(value, list) else []
