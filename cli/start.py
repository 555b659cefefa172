"""The command `headway`. Only the command that is called is imported: all of them together take over a second."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer

from cli.table import COMMANDS
from cli.terminal.any_encoding import print_in_any_encoding
from cli.terminal.command_help import help_in_source
from cli.terminal.whole_help import WholeHelp
from wire.process.ending import end_process, status_of
from wire.process.threads import wait_passively

_HELP = "Self-hosted GRPO training: run the service on this machine (up), or one plane of it."


class Headway(typer.Typer):
    """The command, for the installed script and `python -m cli` alike."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        print_in_any_encoding()
        return super().__call__(*args, **kwargs)


def start() -> None:
    """Run the command that the command line names. One that runs a plane ends the process itself, since a supervisor
    waits for that end."""
    words = sys.argv[1:]
    if words == ["--version"]:
        _show_version(True)
    elif words and words[0] in COMMANDS and COMMANDS[words[0]].is_plane:
        end_process(status_of(app_for(words)))
    else:
        app_for(words)()


def app_for(words: Sequence[str]) -> Headway:
    """The command with the one of its commands that these words name. Where they name none, all of them are listed, or,
    for the shell to complete a line, there."""
    if words and words[0] in COMMANDS:
        return make_app(words[:1])
    is_completing = "_HEADWAY_COMPLETE" in os.environ
    is_listing = not is_completing and (not words or words[0] == "--help" or not words[0].startswith("-"))
    return _listing_app() if is_listing else make_app(COMMANDS)


def _listing_app() -> Headway:
    """The command with the name and the help of all of its commands, none of which is imported."""
    app = _app()
    for name, entry in COMMANDS.items():
        text = help_in_source(entry.module, entry.function)
        app.command(name, help=text, hidden=entry.is_hidden)(_not_here)
    return app


def _not_here() -> NoReturn:
    raise AssertionError("a command that is only listed")


def make_app(names: Iterable[str]) -> Headway:
    """The command with these of its commands."""
    app = _app()
    for name in names:
        entry = COMMANDS[name]
        command = getattr(import_module(entry.module), entry.function)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, hidden=entry.is_hidden)
        else:
            app.command(name, context_settings={"allow_extra_args": True} if entry.takes_more else {})(command)
    return app


def _app() -> Headway:
    app = Headway(
        name="headway",
        cls=WholeHelp,
        help=_HELP,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_begin)
    return app


def _show_version(asked: bool) -> None:
    if asked:
        from wire.loaded import version_of

        typer.echo(f"headway {version_of('headway')}")
        raise SystemExit


def _begin(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version, and end")
    ] = False,
) -> None:
    """Before a command imports torch, or starts a process that does."""
    wait_passively()
