"""What is served of a folder, and with which packages."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from runner.environments.base import BuildFailed
from runner.environments.dependencies import HUD, TYPER, Dependencies, read_dependencies
from runner.environments.targets import Target, find_target

_OF_A_NULL_BYTE = "SyntaxError" if sys.version_info >= (3, 11, 4) else "ValueError"
DECLARES = "from hud.environment import Environment\nenv = Environment({!r})\n"


def lay(folder: Path, **files: str) -> list[str]:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_py", ".py").replace("_toml", ".toml").replace("_txt", ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return []


def found(folder: Path, name: str = "demo-env") -> tuple[Target, list[str]]:
    lines: list[str] = []
    return find_target(folder, name, "Demo_Env", lines.append), lines


def test_the_file_that_declares_the_name_is_served(tmp_path: Path) -> None:
    lay(tmp_path, other_py=DECLARES.format("other"), pkg__env_py="import hud\n" + DECLARES.format("Demo_Env"))
    lay(tmp_path, broken_py="def", venv__x_py=DECLARES.format("Demo_Env"))
    assert found(tmp_path)[0] == Target("pkg/env.py", "Demo_Env")


def test_a_keyword_and_an_attribute_declare_it_too(tmp_path: Path) -> None:
    lay(tmp_path, env_py="import hud.environment as e\nx = e.Environment(version='1', name='demo env')\n")
    assert found(tmp_path)[0] == Target("env.py", "demo env")


def test_a_name_that_nothing_declares_is_a_failed_build(tmp_path: Path) -> None:
    lay(tmp_path, env_py=DECLARES.format("another"))
    with pytest.raises(BuildFailed, match="no Python file declares.*'Demo_Env'.*it declares another"):
        found(tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("import hud\ndef add(a, b:\n    pass\n", "env.py, line 2: SyntaxError: '(' was never closed: def add(a, b:"),
        ("def f():\nreturn 1\n", "env.py, line 2: IndentationError: expected an indented block after function"),
        ("x = 1\0", f"env.py: {_OF_A_NULL_BYTE}: source code string cannot contain null bytes"),
        ("# coding: nonsense\n", "env.py: SyntaxError: unknown encoding: nonsense"),
    ],
)
def test_a_syntax_error_is_a_failed_build_with_its_line(text: str, sentence: str, tmp_path: Path) -> None:
    lay(tmp_path, a__broken_py="def", env_py=text, other_py=DECLARES.format("another"))
    with pytest.raises(BuildFailed, match=re.escape(sentence) + ".*'Demo_Env'"):
        found(tmp_path)


def test_files_that_are_no_python_are_named_in_the_log(tmp_path: Path) -> None:
    lay(tmp_path, env_py=DECLARES.format("Demo_Env"), scratch_py="print 1\n")
    target, lines = found(tmp_path)
    assert target.path == "env.py"
    assert lines[0].startswith("not searched: scratch.py, line 1: SyntaxError: Missing parentheses")


def test_two_files_of_one_name_need_a_word(tmp_path: Path) -> None:
    lay(tmp_path, a_py=DECLARES.format("demo-env"), b_py=DECLARES.format("demo-env"))
    with pytest.raises(BuildFailed, match="several files declare.*a.py, b.py.*CMD"):
        found(tmp_path)
    (tmp_path / "Dockerfile").write_text('FROM python\nCMD ["hud", "serve", "b.py:env", "--port", "8765"]\n')
    assert found(tmp_path)[0].path == "b.py"


@pytest.mark.parametrize(
    "command",
    [
        'CMD ["hud", "serve", "pkg/env.py:env", "--host", "0.0.0.0"]',
        "CMD hud serve --port 8765 /app/pkg/env.py",
        'ENTRYPOINT ["python", "-m", "hud.environment.server"]\nCMD ["pkg/env.py"]',
        'CMD ["sh", "-c", "exec hud serve pkg/env"]',
        "CMD uv run python -m hud.environment.server \\\n  pkg.env --env demo",
    ],
)
def test_what_the_dockerfile_serves_is_served(command: str, tmp_path: Path) -> None:
    lay(tmp_path, pkg__env_py=DECLARES.format("demo-env"), z_py=DECLARES.format("demo-env"))
    (tmp_path / "Dockerfile.hud").write_text(
        "FROM python:3.11 AS first\nWORKDIR /other\nCMD hud serve z.py\n"
        "FROM python:3.11\nWORKDIR /app\nENV GREETING=hello SIZE='2 3'\nENV OLD way of it\n"
        f"RUN apt-get update && \\\n    apt-get install -y chromium\nRUN pip install hud\n{command}\n"
    )
    target, lines = found(tmp_path)
    assert target.path == "pkg/env.py"
    assert target.variables == {"GREETING": "hello", "SIZE": "2 3", "OLD": "way of it"}
    assert [line for line in lines if line.startswith("not run")] == [
        "not run: RUN apt-get update &&      apt-get install -y chromium"
    ]


def test_a_dockerfile_that_serves_what_is_not_there_is_refused(tmp_path: Path) -> None:
    lay(tmp_path, env_py=DECLARES.format("demo-env"))
    for target in ("gone.py", "../../etc/passwd"):
        (tmp_path / "Dockerfile").write_text(f"CMD hud serve {target}")
        with pytest.raises(BuildFailed, match="not in the archive"):
            found(tmp_path)


def needed(folder: Path, archive: str = "a" * 64) -> Dependencies:
    return read_dependencies(folder, archive, lambda line: None)


def project(*requirements: str, python: str = ">=3.11") -> str:
    return f"[project]\nname = 'x'\nrequires-python = '{python}'\ndependencies = {list(requirements)!r}\n"


def test_nothing_but_hud_is_served_by_the_runners_own_python(tmp_path: Path) -> None:
    assert needed(tmp_path).are_ours
    lay(tmp_path, pyproject_toml=project("hud>=0.6", "typer<0.29"))
    assert needed(tmp_path).are_ours
    lay(tmp_path, pyproject_toml=project("hud==0.6.20"))
    assert not needed(tmp_path).are_ours


def test_packages_are_known_by_what_they_are(tmp_path: Path) -> None:
    lay(tmp_path, pyproject_toml=project("cowsay"), requirements_txt="not read")
    first = needed(tmp_path)
    assert (first.lines, first.file) == (("cowsay", HUD, TYPER), None)
    assert needed(tmp_path, "b" * 64).digest == first.digest
    lay(tmp_path, pyproject_toml=project("cowsay", "hud==0.6.21"))
    assert needed(tmp_path).lines == ("cowsay", "hud==0.6.21", TYPER)
    assert needed(tmp_path).digest != first.digest


def test_a_file_of_the_archive_makes_packages_its_own(tmp_path: Path) -> None:
    lay(tmp_path, requirements_txt="./mine  # here\n--index-url https://example.org\n")
    own = needed(tmp_path)
    assert (own.lines, own.file) == ((HUD, TYPER), "requirements.txt")
    assert needed(tmp_path, "b" * 64).digest != own.digest


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[project", "cannot be read"),
        (project("a b c"), "'a b c' cannot be read"),
        (project(python=">=4"), "needs Python >=4"),
        ("[project]\ndependencies = 'hud'", "not a list"),
    ],
)
def test_a_project_that_cannot_be_read_is_a_failed_build(text: str, sentence: str, tmp_path: Path) -> None:
    lay(tmp_path, pyproject_toml=text)
    with pytest.raises(BuildFailed, match=sentence):
        needed(tmp_path)
