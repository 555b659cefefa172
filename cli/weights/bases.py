"""The folder of a base model: its weights, one tensor at a time, and the files beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

_NO_WEIGHTS = ("*.json", "*.txt", "*.model", "*.jinja", "*.py", "*.safetensors", "LICENSE*")
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack", ".ot")
_INDEX_SUFFIX = ".index.json"
_LEFT_OUT = ("README.md", "recipe.json")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of a file: dtype as safetensors calls it (`BF16`), and its shape."""

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]


def find_base(named: str) -> Path:
    """The folder of a path or of an id at the hub, which is downloaded where it is not in the cache.

    Raises ValueError, or WeightsOutOfReach with what to do.
    """
    if named and Path(named).expanduser().is_dir():
        return Path(named).expanduser()
    if not named or named.startswith((".", "/", "~")):
        raise ValueError(f"there is no model folder at {named!r}; give its base with --base")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    from wire.errors import Unavailable
    from wire.process.hub_weights import require_weights

    try:
        require_weights(named)
        return Path(snapshot_download(named, allow_patterns=list(_NO_WEIGHTS)))
    except (HfHubHTTPError, HFValidationError) as error:
        raise Unavailable(
            f"the base {named!r} cannot be had ({str(error).splitlines()[0]}); give --base PATH"
        ) from None


class BaseFolder:
    """Raises ValueError for a folder without safetensors."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder} is no model: it has no config.json")
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self.tensors = _tensors(folder)

    def other_files(self) -> list[Path]:
        """Tokenizer, chat template, generation defaults, code, licence: all but weights and what describes the base."""
        return sorted(path for path in self.folder.iterdir() if _goes_along(path))


def _goes_along(path: Path) -> bool:
    name = path.name
    is_weight = name.endswith((*_WEIGHT_SUFFIXES, _INDEX_SUFFIX))
    return path.is_file() and not (is_weight or name.startswith(".") or name in ("config.json", *_LEFT_OUT))


def _tensors(folder: Path) -> Mapping[str, StoredTensor]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        files = ["model.safetensors"] if (folder / "model.safetensors").is_file() else []
    if not files:
        raise ValueError(
            f"{folder} has no safetensors; convert it with save_pretrained, and give that folder as --base"
        )
    found = dict[str, StoredTensor]()
    for name in files:
        with safe_open(folder / name, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - it is no dict
                part = file.get_slice(key)
                found[key] = StoredTensor(key, folder / name, part.get_dtype(), tuple(part.get_shape()))
    return found
