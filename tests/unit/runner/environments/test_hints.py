"""What a build says of environments that can be served and teach nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.environments.hints import hints

TASK = "@env.template(description='x')\nasync def add(a: int):\n    answer = yield 'a'\n"
MANIFEST = {"tasks": [{"id": "add"}], "capabilities": []}


def said(folder: Path, text: str) -> list[str]:
    (folder / "env.py").write_text(text)
    return hints(folder, "env.py", MANIFEST)


def test_an_environment_without_tasks_is_shown_what_a_task_is(tmp_path: Path) -> None:
    (hint,) = hints(tmp_path, "env.py", {"tasks": [], "capabilities": []})
    assert "has no tasks" in hint
    assert "@env.template()" in hint


def test_a_task_that_grades_nothing_is_named_with_its_line(tmp_path: Path) -> None:
    (hint,) = said(tmp_path, f"x = 1\n{TASK}    print(answer)\n")
    assert hint.startswith("hint: the task 'add' (env.py, line 3) yields a prompt and no reward")


@pytest.mark.parametrize(
    "text",
    [
        TASK + "    yield 1.0\n",
        TASK + "    if answer:\n        yield 1.0\n",
        "@env.template\nasync def add():\n    for each in ('a', 1.0):\n        yield each\n",
        "async def helper():\n    yield 1\n",
        "def (",
    ],
)
def test_other_code_is_passed_over(text: str, tmp_path: Path) -> None:
    assert said(tmp_path, text) == []


def test_yields_of_functions_in_a_task_are_not_its_own(tmp_path: Path) -> None:
    assert len(said(tmp_path, TASK + "    def inner():\n        yield 2.0\n")) == 1
