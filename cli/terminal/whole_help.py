"""`--help` in which nothing is cut at any width, in characters that every terminal has. Typer's own draws boxes, and
cuts names of options and variables that do not fit; click's cuts the sentence about a command where a line ends."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class WholeHelp(TyperGroup):
    """Commands, each with the first paragraph about it."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        found = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        shown = [(name, _paragraph(command.help)) for name, command in found.items() if command and not command.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(shown)


def _paragraph(text: str | None) -> str:
    return " ".join((text or "").partition("\n\n")[0].split())
