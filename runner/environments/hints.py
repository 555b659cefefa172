"""What a build says about an environment that can be served, and whose rollouts would teach nothing all the same."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_LOOPS = (ast.For, ast.AsyncFor, ast.While)


def hints(source: Path, path: str, manifest: Mapping[str, Any]) -> list[str]:
    """Lines for the build's log. `path`: of what is served, below the source."""
    if not manifest["tasks"]:
        return [
            "hint: the environment has no tasks, so nothing can be played on it: write a function under "
            "@env.template(), which yields a prompt and then a reward"
        ]
    file = source / path
    if not file.is_file():
        return []
    return [
        f"hint: the task {function.name!r} ({path}, line {function.lineno}) yields a prompt and no reward: the "
        "SDK scores every rollout of it 0.0"
        for function in _tasks(file)
        if _yields_once(function)
    ]


def _tasks(file: Path) -> Iterator[ast.AsyncFunctionDef]:
    """Functions under `@….template(…)`."""
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef) and any(map(_declares_task, node.decorator_list)):
            yield node


def _declares_task(decorator: ast.expr) -> bool:
    function = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(function, ast.Attribute) and function.attr == "template"


def _yields_once(function: ast.AsyncFunctionDef) -> bool:
    """A yield in a loop counts twice."""
    return sum(_yields(statement) for statement in function.body) == 1


def _yields(node: ast.AST) -> int:
    """As often as one pass through all of its branches yields."""
    if isinstance(node, _FUNCTIONS):
        return 0
    number = isinstance(node, ast.Yield) + sum(map(_yields, ast.iter_child_nodes(node)))
    return 2 * number if isinstance(node, _LOOPS) else number
