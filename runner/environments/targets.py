"""Finds what to serve in the folder that was deployed: the file that declares the environment, or what its Dockerfile
says."""

from __future__ import annotations

import ast
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from runner.environments.base import BuildFailed, Log
from runner.environments.dockerfiles import read_dockerfile
from wire.environment_names import normalized_name

_UNSEARCHED = {"__pycache__", ".git", ".venv", "venv", "node_modules", ".hud", ".tox", "site-packages"}
_MAX_FILE_BYTES = 4 << 20
_MAX_FILES = 5000
_MAX_SHOWN = 200
"""Characters of the line in which a file is no Python."""


@dataclass(frozen=True, slots=True)
class Target:
    """`path`: of a file or folder, relative to the source. `variables`: of the Dockerfile."""

    path: str
    declared_name: str
    variables: dict[str, str] = field(default_factory=dict[str, str])


def find_target(source: Path, name: str, declared_name: str, log: Log) -> Target:
    """What serves the environment of the normalized `name`. Parses every Python file, runs none.

    Raises BuildFailed where nothing declares it (with the place of a syntax error, if there is one), or several files
    do and no Dockerfile says which.
    """
    docker = read_dockerfile(source, log)
    declarations, unreadable = _declarations(source)
    for sentence in unreadable:
        log(f"not searched: {sentence}")
    of_that_name = {
        path: each for path, names in declarations.items() for each in names if normalized_name(each) == name
    }
    declared = next(iter(of_that_name.values()), declared_name)
    if docker.target is not None:
        found = _resolve(source, docker.target)
        log(f"serving {found}, as the Dockerfile says")
        return Target(found, declared, docker.variables)
    if not of_that_name and unreadable:
        raise BuildFailed(
            f"{unreadable[0]} (no file that can be read declares an environment of the name {declared_name!r})"
        )
    if not of_that_name:
        raise BuildFailed(_nothing(declared_name, {each for names in declarations.values() for each in names}))
    if len(of_that_name) > 1:
        listed = ", ".join(sorted(of_that_name))
        at_top = sorted(path for path in of_that_name if "/" not in path)
        if len(at_top) != 1:
            raise BuildFailed(
                f"several files declare the environment {declared_name!r}: {listed}. Keep one, or name it in a "
                'Dockerfile: CMD ["hud", "serve", "FILE"]'
            )
        log(f"several files declare the environment ({listed}): serving {at_top[0]}")
        return Target(at_top[0], of_that_name[at_top[0]], docker.variables)
    path = next(iter(of_that_name))
    log(f"serving {path}")
    return Target(path, declared, docker.variables)


def _nothing(declared_name: str, others: set[str]) -> str:
    found = f"; it declares {', '.join(sorted(others))}" if others else ""
    return (
        f"no Python file declares an environment of the name {declared_name!r} as a text in the code, "
        f"Environment({declared_name!r}){found}. (Environments that speak MCP alone cannot be played; port them to "
        "hud 0.6.)"
    )


def _declarations(source: Path) -> tuple[dict[str, set[str]], list[str]]:
    """The names that each file declares; and of files that are no Python, where and why, those at the top first."""
    declared, unreadable = dict[str, set[str]](), list[tuple[int, str]]()
    for file in _python_files(source):
        path = file.relative_to(source).as_posix()
        try:
            if names := _declared_names(file):
                declared[path] = names
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            unreadable.append((path.count("/"), _unreadable(path, error)))
    return declared, [sentence for _, sentence in sorted(unreadable)]


def _unreadable(path: str, error: Exception) -> str:
    if not isinstance(error, SyntaxError):
        return f"{path} cannot be parsed: {type(error).__name__}: {error}"
    where = f"{path}, line {error.lineno}" if error.lineno else path
    line = (error.text or "").strip()[:_MAX_SHOWN]
    return f"{where}: {type(error).__name__}: {error.msg}" + (f": {line}" if line else "")


def _python_files(source: Path) -> Iterator[Path]:
    number = 0
    for folder, folders, files in os.walk(source):
        folders[:] = sorted(each for each in folders if each not in _UNSEARCHED)
        for file in sorted(files):
            path = Path(folder, file)
            if file.endswith(".py") and not path.is_symlink() and path.stat().st_size <= _MAX_FILE_BYTES:
                number += 1
                if number > _MAX_FILES:
                    return
                yield path


def _declared_names(path: Path) -> set[str]:
    with warnings.catch_warnings(action="ignore"):
        tree = ast.parse(path.read_bytes())
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and _callee(node.func) == "Environment")
    names = (_first_argument(call) for call in calls)
    return {name.value for name in names if isinstance(name, ast.Constant) and isinstance(name.value, str)}


def _callee(function: ast.expr) -> str | None:
    if isinstance(function, ast.Name):
        return function.id
    return function.attr if isinstance(function, ast.Attribute) else None


def _first_argument(call: ast.Call) -> ast.expr | None:
    if call.args:
        return call.args[0]
    return next((keyword.value for keyword in call.keywords if keyword.arg == "name"), None)


def _resolve(source: Path, target: str) -> str:
    """`env`, `env.py`, `pkg/env.py` or `pkg.env` as a path below the source."""
    for candidate in (target, f"{target}.py", target.replace(".", "/") + ".py", target.replace(".", "/")):
        path = (source / candidate).resolve()
        if path.is_relative_to(source.resolve()) and path.exists():
            return path.relative_to(source.resolve()).as_posix()
    raise BuildFailed(f"the Dockerfile serves {target!r}, which is not in the archive")
