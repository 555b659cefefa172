"""Commands take the options that the fields of settings dataclasses declare (`wire.process.options.Option`)."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, get_args, get_origin, get_type_hints

import typer

from wire.process.options import Option

Given: TypeAlias = dict[type, dict[str, Any]]
"""By settings class: what was given, by the names of its fields."""


@dataclass(frozen=True, slots=True)
class _Field:
    settings: type
    name: str
    option: Option
    parameter: inspect.Parameter


def takes_settings(*settings: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """For a command with a parameter `given: Given`: in its place the command line has an option for each field of the
    settings classes that declares one."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        fields = [field for one in settings for field in _declared(one)]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            given: Given = {one: {} for one in settings}
            for field in fields:
                given[field.settings][field.name] = field.option.taken(values.pop(field.parameter.name))
            command(**values, given=given)

        hints = get_type_hints(command, include_extras=True)
        own = inspect.signature(command).parameters.values()
        others = [p.replace(annotation=hints[p.name]) for p in own if p.name != "given"]
        required = [p for p in others if p.default is inspect.Parameter.empty]
        optional = [p for p in others if p.default is not inspect.Parameter.empty]
        parameters = [*required, *optional, *(field.parameter for field in fields)]
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def _declared(settings: type) -> list[_Field]:
    hints = get_type_hints(settings, include_extras=True)
    found: list[_Field] = []
    for field in dataclasses.fields(settings):
        hint = hints[field.name]
        if get_origin(hint) is not Annotated:
            continue
        kind, *metadata = get_args(hint)
        option = next((m for m in metadata if isinstance(m, Option)), None)
        if option is not None:
            assert field.default is not dataclasses.MISSING, f"{field.name} needs a default"
            parameter = _parameter(field.name, kind, option, field.default)
            found.append(_Field(settings, field.name, option, parameter))
    return found


def _parameter(field: str, kind: Any, option: Option, default: Any) -> inspect.Parameter:
    name = option.flag.removeprefix("--").replace("-", "_") if option.flag else field
    kind = str if option.parse else kind
    is_whole = kind in (int, int | None)
    bounds: dict[str, Any] = {
        bound: int(value) if is_whole else value
        for bound, value in (("min", option.minimum), ("max", option.maximum))
        if value is not None
    }
    if option.shown_default is not None:
        bounds["show_default"] = option.shown_default
    shown: Any = typer.Option(envvar=option.envvar, help=option.help, **bounds)
    annotation: Any = Annotated[kind, shown]
    given = option.given(default)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=given, annotation=annotation)
