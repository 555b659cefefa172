"""Blocks of code in the documentation parse, and the commands and options of `headway` that it names exist."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from cli.main import app
from tests.unit.docs.shell_commands import headway_commands

ROOT = Path(__file__).parents[3]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/*.md")),
    ROOT / "examples/README.md",
]
BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
PLACEHOLDER = re.compile(r"…|\.\.\.|[A-Z][A-Z_]*$|\[|<|\$")
"""In place of a command: `headway …`, `headway COMMAND`."""


@cache
def root_command() -> Any:
    return typer.main.get_command(app)


def problems(words: list[str]) -> Iterator[str]:
    """What of a command is not there."""
    command = root_command()
    shown = "headway " + " ".join(words)
    for word in words:
        if word == "--":
            return
        if word.startswith("--"):
            option = word.partition("=")[0].strip("[],.")
            if option != "--help" and option not in options(command):
                yield f"{shown}: no option {option}"
        elif hasattr(command, "commands"):
            found = command.commands.get(word.strip(","))
            if found is None:
                if not PLACEHOLDER.match(word):
                    yield f"{shown}: no command {word}"
                return
            command = found


def options(command: Any) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


def blocks(page: Path) -> list[tuple[str, str]]:
    return [(language, body) for _, language, body in BLOCK.findall(page.read_text())]


def is_bash(text: str) -> bool:
    return subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True).returncode == 0


def check(language: str, body: str) -> None:
    if language == "bash":
        assert is_bash(body.replace("<this repository>", "repository")), body
    elif language == "python":
        compile(body, "block", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    elif language == "json":
        json.loads(body)
    elif language in ("yaml", "yml"):
        list(yaml.safe_load_all(body))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_parse_as_what_they_are(page: Path) -> None:
    for language, body in blocks(page):
        check(language, body)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_of_headway_exist(page: Path) -> None:
    text = page.read_text()
    shells = [body for language, body in blocks(page) if language in ("bash", "")]
    inline = INLINE.findall(BLOCK.sub("", text))
    found = [problem for code in (*shells, *inline) for words in headway_commands(code) for problem in problems(words)]
    assert found == []


def test_commands_that_do_not_exist_are_found() -> None:
    text = "HEADWAY_X=1 .venv/bin/headway fly --high && headway up --bas x --base y -- a --q | headway runs \\\n x"
    text += """
        kubectl -n a exec deploy/b -- headway docter
        docker compose exec server headway keys make
        docker compose run --rm -v a:/b trainer backup --too /b
        docker run -d --name headway-sampler --init headway-sampler sampler --back vllm
        docker compose run --entrypoint cp trainer -r /from /to
    """
    found = [problem.partition(": ")[2] for words in headway_commands(text) for problem in problems(words)]
    assert found == [
        *("no command fly", "no option --bas", "no command x", "no command docter", "no command make"),
        *("no option --too", "no option --back"),
    ]
