"""Whether the folder is there, made by this code and whole. Light to import."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

RECIPE_FILE = "recipe.json"


def fingerprint() -> str:
    """Changes with the pinned wheel and with the code that converts it."""
    digest = hashlib.sha256()
    for source in sorted([*Path(__file__).parent.glob("*.py"), Path(__file__).parent / "requirements.txt"]):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def write_recipe(folder: Path) -> None:
    """The last file of the folder: what it was made from, and the size of every other file."""
    sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    recipe = {"fingerprint": fingerprint(), "sizes": sizes}
    (folder / RECIPE_FILE).write_text(json.dumps(recipe, indent=2) + "\n")


def is_built(out: Path) -> bool:
    """Whether `out` holds the model that this code makes, with no file missing or cut."""
    recipe = out / RECIPE_FILE
    if not recipe.is_file():
        return False
    made = json.loads(recipe.read_text())
    files = {name: out / name for name in made.get("sizes", {})}
    whole = all(file.is_file() and file.stat().st_size == made["sizes"][name] for name, file in files.items())
    return whole and made.get("fingerprint") == fingerprint()
