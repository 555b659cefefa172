"""`headway init`: a folder with an environment, its tasks and a training loop, which runs as it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from cli.service.environment import MEMBER_ENV
from cli.settings import DEFAULT_DATA_DIR, stop_with
from cli.task_folder.first_tasks import TINY_ARITH
from cli.task_folder.rendering import rendered, write_folder
from wire.environment_names import RESERVED

_NAME = re.compile(r"[a-z](-?[a-z0-9])*")
_MOST_CHARACTERS = 48
_BASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")


def init(
    name: Annotated[str, typer.Argument(help="Of the folder, the environment and the taskset: a-z, 0-9 and hyphens")],
    base: Annotated[
        str, typer.Option(help="Slug of the base to train: 'hud models list' shows those of the service")
    ] = TINY_ARITH,
) -> None:
    """Make a folder with an environment, its tasks and a training loop, which runs as it is.

    The tasks are sums that the base gets right now and then; put your own in their place.
    """
    if not _NAME.fullmatch(name) or len(name) > _MOST_CHARACTERS:
        stop_with(
            f"{name!r} cannot be the name: use a to z, 0 to 9 and single hyphens between them, a letter first, at most "
            f"{_MOST_CHARACTERS} characters, as in my-task"
        )
    if name.startswith(RESERVED):
        stop_with(f"names that begin with {RESERVED!r} are the service's own; choose another")
    if not _BASE.fullmatch(base):
        stop_with(f"{base!r} is no slug of a base; 'hud models list' shows those of the service")
    texts = rendered(name, base)
    try:
        write_folder(Path(name), texts)
    except FileExistsError:
        stop_with(f"{name} is there already, and is not an empty folder: choose another name, or move it away")
    except OSError as error:
        stop_with(f"{name} cannot be made: {error.strerror}")
    typer.echo(f"made {name}/: {', '.join(texts)}\n")
    typer.echo(_next_steps(name))


def _next_steps(name: str) -> str:
    env = DEFAULT_DATA_DIR / MEMBER_ENV
    start = "" if env.exists() else "  headway up                  # in another terminal: the service\n"
    return (
        f"Next:\n{start}"
        f"  source {env}         # where the service is, and your key\n"
        f"  cd {name}\n"
        "  python train.py             # the loop here: one line a step, the reward climbs\n\n"
        f"{name}/README.md goes on: the service plays the environment and trains by itself; your own tasks."
    )
