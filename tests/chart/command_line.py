"""Command lines of `headway` as pods, recipes and pages write them, parsed by the command itself."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import typer
import typer.main

from cli.main import app
from cli.runner_key import VARIABLE as RUNNER_KEY

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
OF_MODULES = {"trainer.main": "trainer"}
"""What `python -m` and torchrun start is a command as well."""
STAND_INS = {
    "HEADWAY_DATABASE_URL": "postgresql://headway@postgres:5432/headway",
    "LWS_LEADER_ADDRESS": "group-0.group",
    "LWS_GROUP_SIZE": "2",
    "LWS_WORKER_INDEX": "0",
}
"""What stands for values that a cluster puts in; others are ANYTHING."""
ANYTHING = "10.0.0.1"


class Refused(ValueError):
    """The command does not take these words with this environment. Says why."""


@dataclass(frozen=True)
class Parsed:
    """A command with what it was given, by the names of its parameters."""

    command: str
    given: dict[str, Any] = field(default_factory=dict[str, Any])


def parsed(words: Sequence[str], environment: Mapping[str, str]) -> Parsed:
    """The words after `headway` with an environment's variables, and no others. Raises Refused."""
    if not words or words[0] not in COMMANDS:
        raise Refused(f"there is no command headway {' '.join(words[:1])}")
    command, rest, name = COMMANDS[words[0]], list(words[1:]), words[0]
    try:
        with _only(environment):
            while getattr(command, "commands", None) and rest and rest[0] in command.commands:
                command, name, rest = command.commands[rest[0]], f"{name} {rest[0]}", rest[1:]
            context = command.make_context(name, rest)
    except SystemExit as error:
        raise Refused(f"headway {name} ends with status {error.code}") from error
    except Exception as error:
        said = error.format_message() if hasattr(error, "format_message") else str(error) or repr(error)
        raise Refused(f"headway {name}: {said}") from error
    return Parsed(name, context.params)


def variables(command: str | None = None) -> set[str]:
    """The variables that a command reads, or any."""
    chosen = COMMANDS.values() if command is None else [COMMANDS[command.split()[0]]]
    found = {name for one in chosen for parameter in _parameters(one) for name in _names(parameter.envvar)}
    return found | ({RUNNER_KEY} if command in (None, "runner") else set())


def words_of(words: Sequence[str]) -> list[str] | None:
    """What follows `headway` in a command line that may start it by torchrun or Python; None: it starts none."""
    for place, word in enumerate(words):
        if word.rpartition("/")[2] == "headway":
            return list(words[place + 1 :])
        if word == "-m" and words[place + 1 : place + 2] and words[place + 1] in OF_MODULES:
            return [OF_MODULES[words[place + 1]], *words[place + 2 :]]
    return None


def expanded(words: Iterable[str], environment: Mapping[str, str]) -> list[str]:
    """Words with $(NAME) replaced, as Kubernetes does it. Raises Refused for a name that is not set."""

    def value(use: re.Match[str]) -> str:
        if use[1] not in environment:
            raise Refused(f"$({use[1]}) is not set in its environment")
        return environment[use[1]]

    return [re.sub(r"\$\((\w+)\)", value, word) for word in words]


def _parameters(command: Any) -> Iterator[Any]:
    yield from (parameter for parameter in command.params if getattr(parameter, "envvar", None))
    for one in getattr(command, "commands", {}).values():
        yield from _parameters(one)


def _names(envvar: str | Sequence[str]) -> list[str]:
    return [envvar] if isinstance(envvar, str) else list(envvar)


@contextmanager
def _only(environment: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("HEADWAY_")}
    given = {name: value for name, value in environment.items() if name.startswith("HEADWAY_") and value}
    os.environ.update(given)
    try:
        yield
    finally:
        for name in given:
            os.environ.pop(name, None)
        os.environ.update(before)
