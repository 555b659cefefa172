"""Every file, folder and module that a page of documentation names exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
FOLDERS = "wire|store|server|trainer|sampler|cli|migrations|tests|bench|docs|docker|examples"
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
PATH = re.compile(rf"(?<![\w./$-])(?:{FOLDERS})/[\w./*-]*")
FILE = re.compile(r"(?<![\w./$*-])\w+\.py\b")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
MODULE = re.compile(rf"`((?:{FOLDERS})(?:\.\w+)+)`")
NOT_OURS = {"convert_hf_to_gguf.py", "look.py", "sampler.env", "trainer.step", "tasks.py", "utils.py"}
"""Files of operators, of clients and of llama.cpp, a call of the SDK, and a name that no file may have."""


def missing(text: str, folder: Path) -> Iterator[str]:
    """What a page in this folder names and does not exist."""
    for code in CODE.findall(text):
        for path in PATH.findall(code):
            if not exists(ROOT, path.rstrip(".")):
                yield path
        yield from {name for name in FILE.findall(code) if name not in file_names()} - NOT_OURS
    for target in LINK.findall(CODE.sub("", text)):
        if not re.match(r"\w+:", target) and not exists(folder, target):
            yield target
    named = {name for name in MODULE.findall(text) if not is_defined(name.split(".")) and not is_value(name.split("."))}
    yield from named - NOT_OURS


def exists(folder: Path, pattern: str) -> bool:
    """A file, or a folder with files. `*` stands for any part of a name."""
    found = sorted(folder.glob(pattern)) if "*" in pattern else [folder / pattern]
    return any(path.is_file() or (path.is_dir() and any(path.glob("*.*"))) for path in found)


@lru_cache
def file_names() -> set[str]:
    return {path.name for folder in FOLDERS.split("|") for path in (ROOT / folder).rglob("*.py")}


def is_defined(name: list[str]) -> bool:
    """`package.module`, or `package.module.thing` where the module's text defines or imports the thing."""
    for length in range(len(name), 0, -1):
        module = ROOT.joinpath(*name[:length])
        for file in (module.with_suffix(".py"), module / "__init__.py"):
            if file.is_file():
                text = file.read_text()
                return all(re.search(rf"^ *(\w.* )?{thing}\b", text, re.MULTILINE) for thing in name[length:])
    return False


def is_value(name: list[str]) -> bool:
    """`server.replicas`: of the chart's values."""
    place = chart_values()
    for key in name:
        if not isinstance(place, dict) or key not in place:
            return False
        place = place[key]
    return True


@lru_cache
def chart_values() -> Any:
    return yaml.safe_load((ROOT / "deploy/helm/headway/values.yaml").read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_only_what_exists(page: Path) -> None:
    assert list(missing(page.read_text(), page.parent)) == []


def test_names_of_what_does_not_exist_are_found() -> None:
    page = """
`server/nothing.py`, `server/app.py`, `server/*/nothing.py`, `server/*/service.py`, `docs/nowhere/`, `docs/decisions/`,
`app.py`, `no_such_file.py`, `server.app`, `server.nothing`, `server.app.create_nothing`, `wire.errors.NotFound`,
[one](nothing.md), [two](../README.md#try-it), [three](https://example.com/x)
```mermaid
    participant N as trainer/nothing/loop.py
    participant W as trainer/worker/loop.py
```
"""
    assert sorted(missing(page, ROOT / "docs")) == [
        "docs/nowhere/",
        "no_such_file.py",
        "nothing.md",
        "server.app.create_nothing",
        "server.nothing",
        "server/*/nothing.py",
        "server/nothing.py",
        "trainer/nothing/loop.py",
    ]
