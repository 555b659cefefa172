"""Adapters that were made elsewhere: what of an archive is taken, and what is checked of it before anything is kept.

Whether the weights are those of the base's layers is for a sampler to say, which has them.
"""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from server.checkpoint_names.adapter_files import ADAPTER_FILES
from wire.errors import InvalidRequest
from wire.lora import MAX_LORA_ALPHA

_CONFIG, _WEIGHTS = ADAPTER_FILES
_MOST_CONFIG, _MOST_HEADER = 1024**2, 16 * 1024**2
_MOST_RANK = 4096
_KEY = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<side>[AB])\.weight")
_MIXES_TOKENS = re.compile(r"\.(self_attn|attn|attention|linear_attn|mixer)\.")
_UNEMBEDDING = "lm_head"
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_BF16_EXPONENT = 0x7F80


@dataclass(frozen=True, slots=True)
class UploadedShape:
    """What the configuration and the names of the weights say about an adapter."""

    rank: int
    alpha: int
    attn: bool
    mlp: bool
    unembed: bool


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def unpack_adapter(archive: BinaryIO, folder: Path) -> UploadedShape:
    """Write the files of a tar archive to a folder, and check them. Blocks on the disk. Raises InvalidRequest."""
    _unpack(archive, folder)
    rank, alpha = _read_config(folder / _CONFIG)
    layers = _check_weights(folder / _WEIGHTS, rank)
    inner = {layer for layer in layers if layer != _UNEMBEDDING}
    mixing = {layer for layer in inner if _MIXES_TOKENS.search(layer)}
    return UploadedShape(rank, alpha, bool(mixing), bool(inner - mixing), _UNEMBEDDING in layers)


def _unpack(archive: BinaryIO, folder: Path) -> None:
    try:
        with tarfile.open(fileobj=archive, mode="r:") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                content = tar.extractfile(member) if member.isreg() and name in ADAPTER_FILES else None
                if content is not None:
                    with (folder / name).open("wb") as written:
                        shutil.copyfileobj(content, written, 1024**2)
    except (tarfile.TarError, EOFError) as error:
        raise InvalidRequest(f"the body is no tar archive: {error}") from None
    if missing := [name for name in ADAPTER_FILES if not (folder / name).exists()]:
        raise InvalidRequest(f"the archive has no {missing[0]} at its top level")


def _read_config(path: Path) -> tuple[int, int]:
    if path.stat().st_size > _MOST_CONFIG:
        raise InvalidRequest(f"{_CONFIG} has more than {_MOST_CONFIG} bytes")
    try:
        config: Any = json.loads(path.read_bytes())
    except ValueError as error:
        raise InvalidRequest(f"{_CONFIG} is not JSON: {error}") from None
    if not isinstance(config, dict) or config.get("peft_type", "LORA") != "LORA":
        raise InvalidRequest(f"{_CONFIG} is not that of a LoRA adapter")
    rank: Any = config.get("r")
    alpha: Any = config.get("lora_alpha")
    if not _is_number(rank, int) or not 1 <= rank <= _MOST_RANK:
        raise InvalidRequest(f"{_CONFIG}: r must be a number from 1 to {_MOST_RANK}")
    if not _is_number(alpha, int | float) or not 1 <= alpha <= MAX_LORA_ALPHA or alpha != int(alpha):
        raise InvalidRequest(f"{_CONFIG}: lora_alpha must be a whole number from 1 to {MAX_LORA_ALPHA}")
    if config.get("use_rslora"):
        raise InvalidRequest(f"{_CONFIG}: use_rslora is not supported: adapters are scaled by lora_alpha / r")
    return rank, int(alpha)


def _is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _check_weights(path: Path, rank: int) -> set[str]:
    """The layers that are adapted."""
    sides: dict[str, set[str]] = {}
    start, tensors = _read_header(path)
    for tensor in tensors:
        found = _KEY.fullmatch(tensor.name)
        if found is None or len(tensor.shape) != 2:
            raise InvalidRequest(f"{_WEIGHTS}: {tensor.name[:200]} is no weight of a LoRA adapter in PEFT's layout")
        if tensor.shape[0 if found["side"] == "A" else 1] != rank:
            raise InvalidRequest(f"{_WEIGHTS}: {tensor.name[:200]} has the shape {tensor.shape}, but r is {rank}")
        _require_finite(path, start, tensor)
        sides.setdefault(found["layer"], set()).add(found["side"])
    for layer, found in sides.items():
        if len(found) != 2:
            raise InvalidRequest(f"{_WEIGHTS}: {layer[:200]} has lora_{found.pop()} alone")
    if not sides:
        raise InvalidRequest(f"{_WEIGHTS} has no weights")
    return set(sides)


def _read_header(path: Path) -> tuple[int, list[_Tensor]]:
    """Where the numbers begin, and which lie there, without a gap. Raises InvalidRequest for no safetensors file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_MOST_HEADER, size - 8):
            raise _no_safetensors()
        try:
            header: Any = json.loads(file.read(length))
            tensors = sorted(_tensors(header), key=lambda tensor: tensor.begin)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise _no_safetensors() from None
    end = 0
    for tensor in tensors:
        if tensor.begin != end or tensor.end - tensor.begin != prod(tensor.shape) * _ITEM_BYTES[tensor.dtype]:
            raise _no_safetensors()
        end = tensor.end
    if 8 + length + end != size:
        raise _no_safetensors()
    return 8 + length, tensors


def _tensors(header: Mapping[str, Any]) -> Iterator[_Tensor]:
    for name, about in header.items():
        if name == "__metadata__":
            continue
        if about["dtype"] not in _ITEM_BYTES:
            raise InvalidRequest(f"{_WEIGHTS}: {name[:200]} is {str(about['dtype'])[:20]}; it must be F32, F16 or BF16")
        shape = tuple(int(extent) for extent in about["shape"])
        if min(shape, default=0) < 1:
            raise _no_safetensors()
        begin, end = about["data_offsets"]
        yield _Tensor(name, about["dtype"], shape, int(begin), int(end))


def _require_finite(path: Path, start: int, tensor: _Tensor) -> None:
    kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[tensor.dtype]
    numbers = np.memmap(path, kind, "r", offset=start + tensor.begin, shape=(prod(tensor.shape),))
    if tensor.dtype == "BF16":
        is_finite = ((numbers & _BF16_EXPONENT) != _BF16_EXPONENT).all()
    else:
        is_finite = np.isfinite(numbers).all()
    if not is_finite:
        raise InvalidRequest(f"{_WEIGHTS}: {tensor.name[:200]} has numbers that are not finite")


def _no_safetensors() -> InvalidRequest:
    return InvalidRequest(f"{_WEIGHTS} is no whole safetensors file")
