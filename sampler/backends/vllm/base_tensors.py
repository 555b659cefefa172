"""Names and shapes of a base's weights, read from the headers of its safetensors files: no torch, no weights."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from wire.errors import CorruptCheckpoint
from wire.process.hub_weights import FILES
from wire.stored_names import HEAD, TEXT_PART, has_vision, path_in_text_part, stored_names

_MAX_HEADER_BYTES = 100_000_000


def local_folder(base: str) -> Path:
    """Where the base's files are on this machine; a hub name is downloaded first."""
    return Path(base) if Path(base).is_dir() else Path(snapshot_download(base, allow_patterns=FILES))


@dataclass(frozen=True, slots=True)
class BaseTensors:
    """Shapes of weights by name, as in the checkpoint. has_vision: the base has a vision tower beside its text part,
    whose layers adapters leave alone."""

    shapes: dict[str, tuple[int, ...]]
    has_vision: bool = False

    @classmethod
    def read(cls, folder: Path) -> BaseTensors:
        """Raises ValueError when the folder has no safetensors."""
        shapes = {name: shape for file in folder.glob("*.safetensors") for name, shape in read_shapes(file).items()}
        if not shapes:
            raise ValueError(f"there are no safetensors in {folder}")
        return cls(shapes, has_vision(json.loads((folder / "config.json").read_text())))

    @property
    def num_parameters(self) -> int:
        """Of all weights together."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def linear(self, path: str) -> tuple[int, int] | None:
        """(outputs, inputs) of the linear layer at this module path."""
        stored = stored_names(path) if self.has_vision else (path,)
        names = [f"{name}.weight" for name in stored]
        names += _EMBEDDINGS if path == HEAD else ()  # tied: the head has no weight
        shape = next((self.shapes[name] for name in names if name in self.shapes), None)
        return (shape[0], shape[1]) if shape is not None and len(shape) == 2 else None

    def any_linear(self) -> str:
        """Path of a linear layer that an adapter may target. Raises ValueError if none is known."""
        paths = [path for name in self.shapes if (path := self._adaptable(name))]
        for ending in (".q_proj.weight", ".o_proj.weight", ".down_proj.weight", ".out_proj.weight"):
            if found := min((path for path in paths if path.endswith(ending)), default=None):
                return found.removesuffix(".weight")
        raise ValueError("no linear layer with a name that vLLM would serve an adapter on")

    def _adaptable(self, stored: str) -> str | None:
        return path_in_text_part(stored) if self.has_vision else stored


_EMBEDDINGS = tuple(f"{name}.weight" for name in ("model.embed_tokens", *stored_names(f"{TEXT_PART}embed_tokens")))


def read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a safetensors file. Raises FileNotFoundError, and CorruptCheckpoint if it is cut off."""
    with file.open("rb") as opened:
        prefix = opened.read(8)
        num_header_bytes = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else _MAX_HEADER_BYTES
        header: Any = _parsed(file, opened.read(num_header_bytes) if num_header_bytes < _MAX_HEADER_BYTES else b"")
    tensors = {name: about for name, about in header.items() if name != "__metadata__"}
    end = max((about["data_offsets"][1] for about in tensors.values()), default=0)
    if file.stat().st_size != 8 + num_header_bytes + end:
        raise CorruptCheckpoint(f"{file.name} is not as long as its header says")
    return {name: tuple(about["shape"]) for name, about in tensors.items()}


def _parsed(file: Path, header: bytes) -> Any:
    try:
        return json.loads(header)
    except ValueError as error:
        raise CorruptCheckpoint(f"{file.name} has no readable header: {error}") from error
