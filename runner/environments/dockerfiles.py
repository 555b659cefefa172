"""Reads of a Dockerfile what applies without Docker: which file it serves, and its variables."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from runner.environments.base import Log

_NAMES = ("Dockerfile.hud", "Dockerfile")
_MAX_BYTES = 1 << 20
_INSTALLS = re.compile(r"\b(pip3?|uv|poetry|pdm|conda|mamba)\b.*\b(install|sync|add|venv)\b|\bpython3? -m (pip|venv)\b")


@dataclass(slots=True)
class Docker:
    """`target`: of `hud serve TARGET` or `python -m hud.environment.server TARGET`, relative to the source."""

    target: str | None = None
    variables: dict[str, str] = field(default_factory=dict[str, str])


def read_dockerfile(source: Path, log: Log) -> Docker:
    """Logs each RUN that is not an install of Python packages: it is not run."""
    path = next((source / name for name in _NAMES if (source / name).is_file()), None)
    docker = Docker()
    if path is None or path.stat().st_size > _MAX_BYTES:
        return docker
    folder = PurePosixPath("/")
    commands: dict[str, str] = {}
    for instruction, rest in _instructions(path.read_text(errors="replace")):
        if instruction == "FROM":
            commands, folder = {}, PurePosixPath("/")
        elif instruction == "WORKDIR":
            folder = folder / rest.strip('"')
        elif instruction == "ENV":
            docker.variables |= _variables(rest)
        elif instruction == "RUN" and not _INSTALLS.search(rest):
            log(f"not run: RUN {rest}"[:500])
        elif instruction in ("CMD", "ENTRYPOINT"):
            commands[instruction] = rest
    words = [word for name in ("ENTRYPOINT", "CMD") for word in _words(commands.get(name, ""))]
    docker.target = _target(words, folder)
    return docker


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    joined = re.sub(r"\\[ \t]*\n(?:[ \t]*#[^\n]*\n)*", " ", text)
    for line in joined.splitlines():
        name, _, rest = line.strip().partition(" ")
        if name and not name.startswith("#"):
            yield name.upper(), rest.strip()


def _variables(rest: str) -> dict[str, str]:
    try:
        words = shlex.split(rest)
    except ValueError:
        return {}
    if words and "=" not in words[0]:  # ENV NAME the whole rest
        name, _, value = rest.partition(" ")
        return {name: value.strip()}
    return dict(word.split("=", 1) for word in words if "=" in word)


def _words(command: str) -> list[str]:
    if command.startswith("["):
        try:
            words = json.loads(command)
        except ValueError:
            return []
        return [str(word) for word in words] if isinstance(words, list) else []
    try:
        words = shlex.split(command)
    except ValueError:
        return []
    return words[1:] if words[:1] == ["exec"] else words


def _target(words: list[str], folder: PurePosixPath) -> str | None:
    """What comes after the command's name; also in `sh -c "…"`, and after `uv run`."""
    if len(words) >= 3 and words[0].rsplit("/", 1)[-1] in ("sh", "bash") and words[1].startswith("-"):
        words = _words(words[2])
    for at in range(len(words)):
        command = [words[at].rsplit("/", 1)[-1], *words[at + 1 : at + 2]]
        if command in (["hud", "serve"], ["-m", "hud.environment.server"]):
            named = next(_positional(words[at + 2 :]), "env")
            return _below(named.partition(":")[0] or "env", folder)
    return None


def _positional(words: list[str]) -> Iterator[str]:
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word.startswith("-"):
            skip = "=" not in word and word not in ("-v", "--verbose")
        else:
            yield word


def _below(target: str, folder: PurePosixPath) -> str:
    """A path in the image as a path in the source, which was copied to the working folder."""
    path = PurePosixPath(target)
    if not path.is_absolute():
        return target
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else path.name
