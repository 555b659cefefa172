"""Which packages an environment needs, and what identifies that set."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from runner.environments.base import BuildFailed, Log

HUD, TYPER = "hud==0.6.21", "typer<0.29"
"""What is installed where the environment names no hud: typer as hud 0.6.21 needs it."""
_SDKS = {"hud", "hud-python"}
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Dependencies:
    """`lines`: requirements, or with `file` those beside it. `digest`: the same packages by the same Python.
    `are_ours`: the runner's own Python has them."""

    lines: tuple[str, ...]
    file: str | None
    digest: str
    are_ours: bool


def read_dependencies(source: Path, archive_digest: str, log: Log) -> Dependencies:
    """Those of pyproject.toml, or else of requirements.txt. Raises BuildFailed for a file that cannot be read, and for
    a Python that is not this one."""
    project, requirements = source / "pyproject.toml", source / "requirements.txt"
    if project.is_file() and (lines := _of_project(project)) is not None:
        log(f"packages: {len(lines)} of pyproject.toml")
        return _identified(lines, None, archive_digest, lines)
    if requirements.is_file():
        lines = _of_file(requirements)
        log(f"packages: {len(lines)} of requirements.txt")
        return _identified(lines, "requirements.txt", archive_digest, [])
    return _identified([], None, archive_digest, [])


def _of_project(path: Path) -> list[str] | None:
    """None where it says nothing of dependencies."""
    try:
        project: Any = tomllib.loads(_text(path)).get("project")
    except tomllib.TOMLDecodeError as error:
        raise BuildFailed(f"pyproject.toml cannot be read: {error}") from error
    if not isinstance(project, dict):
        return None
    _require_python(project.get("requires-python"))
    lines = project.get("dependencies")
    if lines is None:
        return None
    if not isinstance(lines, list) or not all(isinstance(line, str) and "\n" not in line for line in lines):
        raise BuildFailed("project.dependencies of pyproject.toml is not a list of texts")
    for line in lines:
        _requirement(line)
    return lines


def _require_python(wanted: object) -> None:
    if wanted is None:
        return
    ours = platform.python_version()
    try:
        fits = SpecifierSet(str(wanted)).contains(ours, prereleases=True)
    except InvalidSpecifier as error:
        raise BuildFailed(f"requires-python of pyproject.toml cannot be read: {error}") from error
    if not fits:
        raise BuildFailed(f"the environment needs Python {wanted}; this runner has {ours}")


def _of_file(path: Path) -> list[str]:
    lines = (re.sub(r"(^|\s)#.*$", "", line).strip() for line in _text(path).splitlines())
    return [line for line in lines if line]


def _text(path: Path) -> str:
    if path.stat().st_size > _MAX_BYTES:
        raise BuildFailed(f"{path.name} is larger than a megabyte")
    try:
        return path.read_text()
    except UnicodeDecodeError as error:
        raise BuildFailed(f"{path.name} is not UTF-8: {error}") from error


def _requirement(line: str) -> Requirement:
    try:
        return Requirement(line)
    except InvalidRequirement as error:
        raise BuildFailed(f"the requirement {line!r} cannot be read: {error}") from error


def _identified(lines: list[str], file: str | None, archive_digest: str, installed: list[str]) -> Dependencies:
    """Lines that name files of the archive, or options, make a set of this archive alone."""
    parsed = [_parsed(line) for line in lines]
    names = {canonicalize_name(each.name) for each in parsed if each is not None}
    added = [] if names & _SDKS else [HUD]
    if "hud" in names | {"hud"} and "typer" not in names:
        added.append(TYPER)
    is_plain = all(each is not None and not (each.url or "").startswith("file:") for each in parsed)
    identity = [platform.python_implementation(), platform.python_version(), platform.machine(), sorted(lines), added]
    if not is_plain:
        identity.append(archive_digest)
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    are_ours = is_plain and all(each is not None and _is_ours(each) for each in parsed)
    return Dependencies((*installed, *added), file, digest, are_ours)


def _parsed(line: str) -> Requirement | None:
    try:
        return Requirement(line)
    except InvalidRequirement:
        return None


def _is_ours(requirement: Requirement) -> bool:
    """Of the SDK and what it was pinned with alone: other packages of the runner are its own affair."""
    if requirement.marker is not None and not requirement.marker.evaluate():
        return True
    if canonicalize_name(requirement.name) not in ("hud", "typer") or requirement.extras or requirement.url:
        return False
    try:
        return requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False
