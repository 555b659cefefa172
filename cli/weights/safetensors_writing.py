"""Safetensors written piece by piece, so that no more than a piece is in memory: the format wants the header first,
which is known beforehand, and then the tensors' bytes one behind another."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from cli.weights.progress import Advance

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_ALIGNED = 8


@dataclass(frozen=True, slots=True)
class WrittenTensor:
    """A tensor to write. `pieces` gives its elements in order, in its dtype."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterator[torch.Tensor]]

    @property
    def num_bytes(self) -> int:
        """In the file."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize


def write_model(folder: Path, tensors: Sequence[WrittenTensor], shard_bytes: int, advance: Advance) -> None:
    """`model.safetensors`, or shards and their index where one would be larger than `shard_bytes`."""
    shards = list(_shards(tensors, shard_bytes))
    if len(shards) == 1:
        _write(folder / "model.safetensors", shards[0], advance)
        return
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        _write(folder / name, shard, advance)
    placed = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    about = {"metadata": {"total_size": sum(tensor.num_bytes for tensor in tensors)}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")


def _shards(tensors: Sequence[WrittenTensor], shard_bytes: int) -> Iterator[list[WrittenTensor]]:
    shard, size = list[WrittenTensor](), 0
    for tensor in tensors:
        if shard and size + tensor.num_bytes > shard_bytes:
            yield shard
            shard, size = [], 0
        shard.append(tensor)
        size += tensor.num_bytes
    yield shard


def _write(path: Path, tensors: Sequence[WrittenTensor], advance: Advance) -> None:
    header, end = dict[str, object](), 0
    for tensor in tensors:
        begin, end = end, end + tensor.num_bytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            for piece in tensor.pieces():
                content = piece.contiguous().reshape(-1).view(torch.uint8).numpy()
                file.write(content.data)
                advance(content.nbytes)
