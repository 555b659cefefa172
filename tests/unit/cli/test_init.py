"""`headway init`: which names it takes, and whether the folder that it makes is whole."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from cli.task_folder.rendering import rendered
from runner.environments.dependencies import read_dependencies
from runner.environments.targets import find_target

FILES = {
    ".gitignore", "README.md", "env.py", "held_out.py", "pyproject.toml", "tasks.py", "test_env.py", "train.py",
}  # fmt: skip


def init(folder: Path, *args: str, monkeypatch: pytest.MonkeyPatch) -> Result:
    monkeypatch.chdir(folder)
    return CliRunner().invoke(app, ["init", *args])


@pytest.mark.parametrize("base", ["tiny-arith", "smollm2", "qwen3-0.6b"])
def test_each_file_is_whole(base: str):
    texts = rendered("my-task", base)
    assert texts.keys() == FILES
    for name, text in texts.items():
        assert "$" not in text, name
        assert max(map(len, text.splitlines())) <= (120 if name.endswith(".py") else 1000), name
        if name.endswith(".py"):
            ast.parse(text)
    assert tomllib.loads(texts["pyproject.toml"])["project"]["name"] == "my-task"
    assert f'default="{base}"' in texts["train.py"]


def test_the_folder_is_made_and_can_be_deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = init(tmp_path, "my-task", monkeypatch=monkeypatch)
    assert made.exit_code == 0, made.output
    assert "source .headway/env" in made.output
    assert "python train.py" in made.output
    assert {path.name for path in (tmp_path / "my-task").iterdir()} == FILES
    assert find_target(tmp_path / "my-task", "my-task", "my-task", lambda line: None).path == "env.py"
    assert read_dependencies(tmp_path / "my-task", "a" * 64, lambda line: None).are_ours


def test_the_tests_of_the_folder_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    init(tmp_path, "my-task", monkeypatch=monkeypatch)
    without_key = {name: value for name, value in os.environ.items() if not name.startswith("HUD_")}
    for program, status, words in (
        ("test_env.py", 0, "test_others_are_not: passed"),
        ("train.py", 1, "HUD_API_KEY is not set"),
    ):
        command = [sys.executable, program]
        done = subprocess.run(command, cwd=tmp_path / "my-task", env=without_key, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        assert words in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "name",
    ["My-Task", "my_task", "../up", "a/b", "/tmp/x", ".", "", "-x", "x-", "x--y", "1st", "a" * 49, "headway-x", "ä"],
)  # fmt: skip
def test_a_name_that_is_none_is_refused_and_nothing_is_made(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    refused = init(tmp_path, "--", name, monkeypatch=monkeypatch)
    assert refused.exit_code == 1, refused.output
    assert "Traceback" not in refused.output
    assert list(tmp_path.iterdir()) == []


def test_a_base_that_is_no_slug_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    refused = init(tmp_path, "x", "--base", 'a"b', monkeypatch=monkeypatch)
    assert (refused.exit_code, "no slug of a base" in refused.output) == (1, True)
    assert list(tmp_path.iterdir()) == []


def test_only_an_empty_folder_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "empty").mkdir()
    assert init(tmp_path, "empty", monkeypatch=monkeypatch).exit_code == 0
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file", "empty"):
        before = sorted(tmp_path.rglob("*"))
        refused = init(tmp_path, name, monkeypatch=monkeypatch)
        assert (refused.exit_code, f"{name} is there already" in refused.output) == (1, True)
        assert sorted(tmp_path.rglob("*")) == before
