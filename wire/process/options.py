"""How a setting is given on a command line, declared with its type and default: a field of a settings dataclass that is
`Annotated[int, Option(...)] = 8` needs no parameter of its own in the command (`cli.terminal.settings_options`)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Option:
    """help: for `--help`. envvar: the environment variable that gives it, too. flag: where that is not the field's
    name. minimum, maximum: of numbers."""

    help: str
    envvar: str | None = None
    flag: str | None = None
    minimum: float | None = None
    maximum: float | None = None
