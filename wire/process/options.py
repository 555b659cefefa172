"""How a setting is given on a command line, declared with its type and default: a field of a settings dataclass that is
`Annotated[int, Option(...)] = 8` needs no parameter of its own in the command (`cli.terminal.settings_options`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Option:
    """help: for `--help`. envvar: the environment variable that gives it, too. flag: where that is not the field's
    name. minimum, maximum: of what is given.

    per: how many units of the field one of the option's is: 3600 for an option in hours of a field in seconds.
    shown_default: what `--help` says in place of a default. parse: what makes the field's value of a given text; a
    function of the module, for annotations are evaluated apart from its names.
    """

    help: str
    envvar: str | None = None
    flag: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    per: float = 1.0
    shown_default: str | None = None
    parse: Callable[[str], Any] | None = None

    def given(self, default: Any) -> Any:
        """The field's default as it would be given."""
        if self.parse is not None:
            assert not default, "what a text is parsed into is empty by default"
            return ""
        return default if default is None or self.per == 1 else default / self.per

    def taken(self, value: Any) -> Any:
        """What was given as the field has it."""
        if self.parse is not None:
            return self.parse(value)
        return value if value is None or self.per == 1 else value * self.per
