"""Container images, as far as a Dockerfile tells: what is started, in which environment, as whom, and which folders
and files the image has beside Headway itself."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILES = ROOT / "docker"
_CONTAINER_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Image:
    """The last stage of a Dockerfile. `files`: path in the image → file of the repository; `folders`: made by
    `install -d`, and owned by the user."""

    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=lambda: {"PATH": _CONTAINER_PATH})
    user: str = "0"
    workdir: str = "/"
    files: dict[str, Path] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)


def image_of(reference: str) -> Image:
    """The image `[registry/]headway-NAME[:tag]`, out of docker/NAME.Dockerfile. Raises ValueError for any other."""
    name = reference.rpartition("/")[2].partition("@")[0].partition(":")[0]
    path = DOCKERFILES / f"{name.removeprefix('headway-')}.Dockerfile"
    if not name.startswith("headway-") or not path.exists():
        raise ValueError(f"the image {reference!r} is not built by a Dockerfile of docker/")
    return read_image(path.read_text())


def read_image(dockerfile: str) -> Image:
    """Of the last stage; what earlier ones are for is not looked at."""
    image = Image()
    for word, rest in _instructions(dockerfile):
        match word:
            case "ENTRYPOINT":
                image.entrypoint = json.loads(rest)
            case "CMD":
                image.command = json.loads(rest)
            case "ENV":
                for pair in shlex.split(rest):
                    name, _, value = pair.partition("=")
                    image.env[name] = _with_values(value, image.env)
            case "USER":
                image.user = rest
            case "WORKDIR":
                image.workdir = rest
            case "COPY" if not rest.startswith("--from"):
                *sources, target = rest.split()
                image.files |= {_target(source, sources, target): ROOT / source for source in sources}
            case "RUN":
                image.folders += _folders_made_by(rest)
            case _:
                pass
    return image


def _target(source: str, sources: list[str], target: str) -> str:
    return target if len(sources) == 1 and not target.endswith("/") else f"{target.rstrip('/')}/{Path(source).name}"


def _with_values(text: str, env: dict[str, str]) -> str:
    return re.sub(r"\$(\w+)", lambda found: env.get(found[1], ""), text)


def _folders_made_by(command: str) -> list[str]:
    for part in command.split("&&"):
        words = shlex.split(part)
        if words[:2] == ["install", "-d"]:
            return [word for word in words if word.startswith("/")]
    return []


def _instructions(dockerfile: str) -> Iterator[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", dockerfile, flags=re.MULTILINE)
    last_stage = re.split(r"^FROM ", text, flags=re.MULTILINE)[-1].partition("\n")[2]
    for line in last_stage.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word:
            yield word.upper(), rest.strip()
