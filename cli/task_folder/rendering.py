"""Writes the folder's files from the templates beside this module (`string.Template`)."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template

from cli.task_folder.first_tasks import FirstTask, first_task

_SUFFIX = ".tmpl"
_HIDDEN = {"gitignore": ".gitignore"}
"""Whose names would hide the templates themselves."""


def rendered(name: str, base: str) -> dict[str, str]:
    """Each file's text by its name. `name`: of the environment and the taskset; `base`: a slug."""
    values = {"name": name, "base": base, **_numbers(first_task(base))}
    templates = [each for each in (files("cli.task_folder") / "files").iterdir() if each.name.endswith(_SUFFIX)]
    return {
        _HIDDEN.get(template.name.removesuffix(_SUFFIX), template.name.removesuffix(_SUFFIX)): Template(
            template.read_text("utf-8")
        ).substitute(values)
        for template in sorted(templates, key=lambda each: each.name)
    }


def write_folder(folder: Path, texts: Mapping[str, str]) -> None:
    """Make the folder with these files. Raises FileExistsError where it holds something already, and OSError."""
    folder.mkdir(exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty")
    for name, text in texts.items():
        (folder / name).write_text(text, "utf-8")


def _numbers(task: FirstTask) -> dict[str, str]:
    return {
        "prompt": task.prompt,
        "lowest": str(task.lowest),
        "highest": str(task.highest),
        "right": str(task.lowest + task.highest),
        "wrong": str(task.lowest + task.highest + 10),
        "num_training": str(task.num_training),
        "num_held_out": str(task.num_held_out),
        "num_sums": str(task.num_training + task.num_held_out),
        "max_tokens": str(task.max_tokens),
        "steps": str(task.steps),
        "learning_rate": f"{task.learning_rate:g}",
    }
