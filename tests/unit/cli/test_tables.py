"""What commands print is whole, at any width and in any encoding."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import typer
from rich.console import Console
from rich.text import Text

from cli.in_session import in_session
from cli.main import app
from cli.start import app_for
from cli.terminal.tables import Listing, show
from server.auth.service import create_key
from store.catalog import ensure_base
from store.database import Database
from tests.rules import violations

ID = "0b1f6a34-9c7e-4a55-8d1f-3a4b5c6d7e8f"
NAMES = "größe-模型"
TEAM = "rouges-é…"


def listing() -> Listing:
    made = Listing("id", "name", "created", "why", prose=("why",), title="Things")
    made.add_row(ID, "[red]a name[/] in brackets", "2026-11-28 14:00", Text("words " * 30, style="red"))
    made.add_row(ID[::-1], NAMES, "2026-11-28 14:01", "")
    return made


@pytest.mark.parametrize("width", [60, 80, 100, 132, 220])
def test_on_a_terminal_no_id_is_cut_or_broken_at_any_width(width: int):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(listing(), crop=False)
    shown = console.file.getvalue()
    for whole in (ID, ID[::-1], "[red]a name[/] in brackets", NAMES, "2026-11-28 14:00"):
        assert whole in shown
    assert shown.count("words") == 30


def test_in_a_pipe_values_stand_between_tabs_and_there_is_no_box(capsys):
    shown = listing()
    shown.add_row("a\tb\nc", "d", "e", "f")
    show(shown)
    title, heads, *rows = capsys.readouterr().out.splitlines()
    assert title == "Things"
    assert heads.split("\t") == ["id", "name", "created", "why"]
    assert [row.split("\t")[0] for row in rows] == [ID, ID[::-1], "a b c"]


def test_a_command_that_draws_its_own_table_is_noticed(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    planted = Path("cli/new_command.py")
    planted.parent.mkdir(parents=True)
    planted.write_text("from rich.table import Table\n")
    assert list(violations(planted)) == [f"{planted}:1: print tables with cli.terminal.tables"]
    planted.write_text("def url(host, port):\n    return f'see http://{host}:{port}/x'\n")
    assert list(violations(planted)) == [f"{planted}:2: put URLs together with wire.process.origins.http_origin"]


def commands(command: Any, *path: str) -> Iterator[tuple[str, ...]]:
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, *path, name)
    yield path


ROOT: Any = typer.main.get_command(app)
"""All commands, put together once, which takes half a second."""
ALL = list(commands(ROOT))


def command_at(path: tuple[str, ...]) -> Any:
    found = ROOT
    for name in path:
        found = found.commands[name]
    return found


def printed(encoding: str, *arguments: str) -> str:
    """What a command prints to a pipe of that encoding. Raises UnicodeEncodeError where it cannot."""
    before, written = (sys.stdout, sys.stderr), io.BytesIO()
    stream = io.TextIOWrapper(written, encoding=encoding, errors="strict", write_through=True)
    sys.stdout = sys.stderr = stream
    try:
        app_for(arguments)([*arguments])
    except SystemExit as end:
        assert not end.code, written.getvalue()
    finally:
        sys.stdout, sys.stderr = before
    return written.getvalue().decode(encoding)


@pytest.mark.parametrize("path", ALL, ids=" ".join)
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_every_command_explains_itself_in_any_encoding(path: tuple[str, ...], encoding: str):
    assert "Usage" in printed(encoding, *path, "--help")


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_names_every_option_variable_and_command_whole_at_80_columns(path: tuple[str, ...], monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = " ".join(printed("ascii", *path, "--help").split())
    command = command_at(path)
    options = [name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]]
    variables = [parameter.envvar for parameter in command.params if getattr(parameter, "envvar", None)]
    inner = [one for one in getattr(command, "commands", {}).values() if not one.hidden]
    sentences = [" ".join(one.help.partition("\n\n")[0].split()) for one in inner]
    missing = [text for text in (*options, *variables, *sentences) if text.isascii() and text not in shown]
    assert not missing, shown


@pytest.fixture
def furnished(database: Database, tmp_path: Path) -> tuple[str, ...]:
    """Options of a command that finds a database with names of all kinds."""
    url = database.url.render_as_string(hide_password=False)
    in_session(url, lambda session: create_key(session, TEAM, NAMES))
    with database.session() as session:
        ensure_base(session, "a-base-with-a-long-name-of-its-own", "/nowhere/größe")
    return ("--database-url", url, "--data-dir", str(tmp_path))


LISTS = [
    ("keys", "list"),
    ("team", "list"),
    ("quota", "show", TEAM),
    ("drain",),
    ("audit",),
    ("status",),
    ("gc", "--dry-run"),
    ("doctor",),
    ("verify",),
]


@pytest.mark.parametrize("command", LISTS, ids=" ".join)
def test_what_commands_list_is_printed_in_any_encoding(command: tuple[str, ...], furnished: tuple[str, ...]):
    assert printed("utf-8", *command, *furnished)
    assert printed("ascii", *command, *furnished).isascii()


def test_what_is_listed_of_keys_is_what_revoke_takes(furnished: tuple[str, ...]):
    heads, row = (line.split("\t") for line in printed("utf-8", "keys", "list", *furnished).splitlines())
    key = dict(zip(heads, row, strict=True))
    assert (UUID(key["id"]), key["name"], key["team"]) == (UUID(key["id"]), NAMES, TEAM)
    assert printed("utf-8", "keys", "revoke", key["key"], *furnished) == f"revoked {key['key']} ({NAMES})\n"
    assert printed("utf-8", "keys", "revoke", key["id"], *furnished)


def ended(*arguments: str) -> tuple[object, str]:
    """The exit status of a command, and what it wrote to standard error. Raises what the command raises."""
    before, sys.stderr = sys.stderr, io.StringIO()
    try:
        app_for(arguments)([*arguments])
    except SystemExit as end:
        return end.code, sys.stderr.getvalue()
    finally:
        sys.stderr = before
    return 0, ""


def with_a_database() -> Iterator[tuple[str, ...]]:
    """A call of every command that works on the database, planes and `up` apart, without the URL at its end."""
    for path in ALL:
        command = command_at(path)
        needed = [parameter for parameter in command.params if parameter.required and parameter.name != "database_url"]
        is_plane = path[:1] in (("up",), ("server",), ("trainer",), ("sampler",), ("key",))
        if not is_plane and any(parameter.name == "database_url" for parameter in command.params):
            given = [[*parameter.opts[:1], "x"] if "--" in parameter.opts[0] else ["x"] for parameter in needed]
            yield (*path, *(word for words in given for word in words))


@pytest.mark.parametrize("call", list(with_a_database()), ids=" ".join)
@pytest.mark.parametrize("url", ["postgresql://nobody:secret@127.0.0.1:1/x", "nonsense"])
def test_a_database_that_is_not_there_ends_a_command_with_a_sentence(
    call: tuple[str, ...], url: str, tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    status, sentence = ended(*call, "--database-url", url)
    assert status == 1
    assert sentence.startswith("headway: ")
    assert len(sentence.splitlines()) == 1
    assert "secret" not in sentence


def test_a_key_is_of_a_team_with_a_name_and_ends_in_a_time_that_there_is(furnished: tuple[str, ...]):
    assert ended("keys", "create", "one", "--team", "", *furnished)[0] == 1
    assert ended("keys", "create", "one", "--days", "1e30", *furnished)[0] == 2


def test_every_command_was_walked():
    assert {("up",), ("keys", "list"), ("quota", "show"), ("report", "trainability")} < set(ALL)
    assert len(ALL) > 30
