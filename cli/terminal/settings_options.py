"""Commands take the options that the fields of a settings dataclass declare (`wire.process.options.Option`)."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from wire.process.options import Option


def takes_settings(settings: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """For a command with a parameter `given: dict[str, Any]`: in its place the command line has an option for each
    field of `settings` that declares one, and `given` holds what was given, by the names of the fields."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        fields = _declared(settings)

        @functools.wraps(command)
        def run(**values: Any) -> None:
            given = {field: values.pop(parameter.name) for field, parameter in fields.items()}
            command(**values, given=given)

        hints = get_type_hints(command, include_extras=True)
        own = inspect.signature(command).parameters.values()
        others = [p.replace(annotation=hints[p.name]) for p in own if p.name != "given"]
        required = [p for p in others if p.default is inspect.Parameter.empty]
        optional = [p for p in others if p.default is not inspect.Parameter.empty]
        parameters = [*required, *optional, *fields.values()]
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def _declared(settings: type) -> dict[str, inspect.Parameter]:
    hints = get_type_hints(settings, include_extras=True)
    found: dict[str, inspect.Parameter] = {}
    for field in dataclasses.fields(settings):
        hint = hints[field.name]
        if get_origin(hint) is not Annotated:
            continue
        kind, *metadata = get_args(hint)
        option = next((m for m in metadata if isinstance(m, Option)), None)
        if option is not None:
            assert field.default is not dataclasses.MISSING, f"{field.name} needs a default"
            found[field.name] = _parameter(field.name, kind, option, field.default)
    return found


def _parameter(field: str, kind: Any, option: Option, default: Any) -> inspect.Parameter:
    name = option.flag.removeprefix("--").replace("-", "_") if option.flag else field
    is_whole = kind in (int, int | None)
    bounds: dict[str, Any] = {
        bound: int(value) if is_whole else value
        for bound, value in (("min", option.minimum), ("max", option.maximum))
        if value is not None
    }
    shown: Any = typer.Option(envvar=option.envvar, help=option.help, **bounds)
    annotation: Any = Annotated[kind, shown]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
