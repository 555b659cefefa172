"""The command starts with no more than it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.start import make_app
from cli.table import COMMANDS
from tests.forked_command import Command
from wire.loaded import version_of

OF_THE_DATABASE = {"sqlalchemy", "psycopg"}
_COMMAND = Command(
    str(Path(__file__).parents[3] / "headway"),
    "tests.unit.cli.naming_imports:start_and_name_imports",
    runs_exit_functions=True,
)
"""Forked from a process that has imported no more than `headway` has when it starts."""


def started(*arguments: str) -> tuple[str, set[str]]:
    """What `headway` prints, and which heavy libraries it has imported by then."""
    done = _COMMAND.run(arguments, Path.cwd(), os.environ)
    said, _, imported = done.stdout.rpartition("imported")
    return said + done.stderr, set(imported.split())


def test_the_version_is_shown_and_nothing_is_imported_for_it():
    assert started("--version") == (f"headway {version_of('headway')}\n", set())


@pytest.mark.parametrize("arguments", [("logs", "--data-dir", "/nowhere"), ("logs", "--help")])
def test_a_command_imports_what_it_needs_alone(arguments: tuple[str, ...]):
    assert not started(*arguments)[1] & {"sqlalchemy", "numpy", "torch", "httpx"}


@pytest.mark.parametrize("command", ["up", "server", "trainer", "sampler", "runner", "migrate"])
def test_to_show_what_a_plane_takes_no_part_of_it_is_imported(command: str):
    """Half a second of processor time, and a second and a half with them."""
    shown, imported = started(command, "--help")
    assert "Usage" in shown
    assert imported <= {"pydantic"}


@pytest.mark.parametrize("arguments", [("--help",), (), ("nonsense",)])
def test_to_list_the_commands_none_is_imported(arguments: tuple[str, ...]):
    assert started(*arguments)[1] == set()


def test_listed_commands_have_the_help_that_they_have_when_they_are_imported(capsys: pytest.CaptureFixture[str]):
    listed, _ = started("--help")
    with pytest.raises(SystemExit):
        make_app(COMMANDS)(["--help"], prog_name="headway")
    assert listed == capsys.readouterr().out


def test_a_name_behind_two_dashes_is_a_command_too():
    assert "nowhere" in started("--", "logs", "--data-dir", "/nowhere")[0]


@pytest.mark.parametrize("command", ["model list", "model show x", "runs list", "runs show x", "export --out /nowhere"])
def test_a_command_that_asks_the_service_imports_no_database(command: str):
    """Each fails, for there is no service, once it has everything that it would ask one with."""
    shown, imported = started(*command.split(), "--url", "http://127.0.0.1:9", "--key", "sk")
    assert "127.0.0.1:9" in shown
    assert imported <= {"httpx", "rich.table"}


def test_what_a_command_logs_is_no_part_of_what_it_prints():
    code = "import structlog; from cli.ending import or_stop; or_stop(lambda: structlog.get_logger().warning('harmed'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, "harmed" in done.stderr) == ("", True)


@pytest.mark.parametrize("command", ["status", "gc", "keys list"])
def test_a_command_that_asks_the_database_imports_no_server(command: str):
    shown, imported = started(*command.split(), "--database-url", "postgresql://nobody@127.0.0.1:9/x")
    assert "refused" in shown
    assert imported > OF_THE_DATABASE
    assert not imported & {"torch", "transformers", "fastapi"}


def test_a_name_that_is_no_command_is_refused():
    assert "No such command 'nonsense'" in started("nonsense")[0]


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """A data folder with logs."""
    (tmp_path / "logs").mkdir()
    for name in ("server", "trainer-tiny", "trainer-big"):
        (tmp_path / "logs" / f"{name}.log").write_text("".join(f"{name} line {n}\n" for n in range(30)))
    return tmp_path


def test_logs_shows_the_end_of_each_log_or_of_one(box: Path):
    shown, _ = started("logs", "--lines", "2", "--data-dir", str(box))
    assert shown.count("==> ") == 3
    assert "server line 28\nserver line 29\n" in shown
    shown, _ = started("logs", "trainer", "-n", "1", "--data-dir", str(box))
    assert sorted(line for line in shown.splitlines() if "line" in line) == [
        "trainer-big line 29",
        "trainer-tiny line 29",
    ]
    assert started("logs", "server", "-n", "1", "--data-dir", str(box))[0] == "server line 29\n"


def test_logs_says_where_there_are_none(box: Path, tmp_path: Path):
    shown, _ = started("logs", "runner", "--data-dir", str(box))
    assert "there are: server, trainer-big, trainer-tiny" in shown
    shown, _ = started("logs", "--data-dir", str(tmp_path / "elsewhere"))
    assert "`headway up` writes them there" in shown


def test_logs_follows_what_is_written(box: Path):
    command = [sys.executable, "-m", "cli", "logs", "server", "--follow", "-n", "1", "--data-dir", str(box)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "server line 29\n"
    with (box / "logs" / "server.log").open("a") as log:
        log.write("and one more\n")
    assert process.stdout.readline() == "and one more\n"
    process.terminate()
    process.communicate()
