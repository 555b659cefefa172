"""What stores do alike with manifests: read one that may be damaged, and compare files with one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from store.checkpoint_stores.base import FileProblem, Manifest
from wire.errors import CorruptCheckpoint

MANIFEST = "manifest.json"


def write_manifest(manifest: Manifest) -> str:
    """As it stands in a store."""
    return json.dumps(manifest.to_json(), indent=1)


def parse_manifest(data: bytes, checkpoint: str) -> Manifest:
    """The inverse. Raises CorruptCheckpoint."""
    try:
        read: dict[str, Any] = json.loads(data)
        return Manifest.from_json(read)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptCheckpoint(f"the manifest of checkpoint {checkpoint} was altered: {error}") from None


def no_manifest(checkpoint: str) -> CorruptCheckpoint:
    """What to raise where there is none."""
    return CorruptCheckpoint(f"checkpoint {checkpoint} has no manifest; its files are missing")


def differences(
    manifest: Manifest,
    parts: Collection[str],
    found: Mapping[str, int],
    read_manifest: Callable[[], Manifest],
    is_as: Callable[[str, tuple[int, str]], bool],
) -> list[FileProblem]:
    """How the parts differ from this manifest. `found`: path to size of what is there, without the manifest. `is_as`:
    whether the content at a path, whose size is right, is right as well. `read_manifest`: the store's own one, or
    CorruptCheckpoint."""
    expected = {path: facts for path, facts in manifest.files.items() if path.split("/")[0] in parts}
    problems = [FileProblem(path, "missing") for path in expected.keys() - found.keys()]
    problems += [FileProblem(path, "extra") for path in found.keys() - expected.keys()]
    here = expected.keys() & found.keys()
    changed = [p for p in here if found[p] != expected[p][0] or not is_as(p, expected[p])]
    if not _says(read_manifest, manifest, expected):
        changed.append(MANIFEST)
    return sorted(problems + [FileProblem(path, "changed") for path in changed], key=lambda p: p.path)


def files_under(folder: Path) -> list[Path]:
    """Every file below a folder, sorted; none where there is no folder."""
    return sorted(Path(parent, name) for parent, _, names in os.walk(folder) for name in names)


def measure(path: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a file. Raises FileNotFoundError."""
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def verify_file(path: Path, expected: tuple[int, str], checkpoint: str) -> None:
    """Raises CorruptCheckpoint for a file that is missing or is not as its manifest says."""
    try:
        measured = measure(path)
    except FileNotFoundError:
        raise CorruptCheckpoint(f"{path.name} of checkpoint {checkpoint} is missing") from None
    if measured != expected:
        raise CorruptCheckpoint(f"{path.name} of checkpoint {checkpoint} was altered")


def _says(read_manifest: Callable[[], Manifest], manifest: Manifest, expected: Collection[str]) -> bool:
    """Whether the store's own manifest says the same of these files. (Of others, it may say less: a restored
    checkpoint was published without the parts that had been thinned.)"""
    try:
        stored = read_manifest().files
    except CorruptCheckpoint:
        return False
    return all(stored.get(path) == manifest.files[path] for path in expected) and stored.keys() <= manifest.files.keys()
