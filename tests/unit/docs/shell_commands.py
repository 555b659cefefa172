"""The commands that a text for a shell starts, as words."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
WORDS_OF_A_SHELL = re.compile(r"&&|\|\||[|;&()<>]|\$\(")


def commands(text: str) -> Iterator[list[str]]:
    """Each command, without the variables that are set before it."""
    for line in text.replace("\\\n", " ").splitlines():
        try:
            words = shlex.split(WORDS_OF_A_SHELL.sub(" ; ", line), comments=True)
        except ValueError:  # a quote that goes on in the next line
            words = line.split()
        while words:
            end = words.index(";") if ";" in words else len(words)
            command, words = words[:end], words[end + 1 :]
            while command and re.match(r"[A-Z_]+=", command[0]):
                command = command[1:]
            if command:
                yield command


def headway_commands(text: str) -> Iterator[list[str]]:
    """The words after `headway` of each command that starts it: by its name, in a container, or as the entry point of
    one of our images."""
    for command in commands(text):
        words = _after_headway(command)
        if words:
            yield words


def _after_headway(command: list[str]) -> list[str] | None:
    names = [word.rsplit("/")[-1] for word in command]
    if names[0] == "headway":
        return command[1:]
    if names[0] == "kubectl":
        inside = command[command.index("--") + 1 :] if "--" in command else []
        return inside[1:] if inside[:1] == ["headway"] else None
    if names[0] != "docker" or "--entrypoint" in command:
        return None
    if "exec" in command and "headway" in command:
        return command[command.index("headway") + 1 :]
    if "run" in command:
        after = command[command.index("run") + 1 :]
        images = services() if "compose" in command else {word for word in after if word.startswith("headway-")}
        started = [place for place, word in enumerate(after) if word in images and after[place - 1] != "--name"]
        return after[started[0] + 1 :] if started else None
    return None


def services() -> set[str]:
    """Of compose.yaml that are started by our images."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    return {name for name, service in found.items() if service["image"].startswith("headway")}
