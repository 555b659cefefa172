"""Base weights plus an adapter as one model: each weight in float32, then in the dtype that it is stored in.

Works through the base a few million numbers at a time, whatever its size.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from cli.weights.adapters import Adapter, Addition
from cli.weights.bases import BaseFolder, StoredTensor
from cli.weights.progress import progress_of
from cli.weights.safetensors_writing import DTYPES, WrittenTensor, write_model
from wire.stored_names import stored_names

FLOATS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
SHARD_BYTES = 5_000_000_000
_PIECE = 16 * 1024**2
"""Numbers at a time."""
_HEAD, _EMBEDDINGS = "lm_head", ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")


def merge(base: BaseFolder, adapter: Adapter, out: Path, dtype: str | None, shard_bytes: int = SHARD_BYTES) -> None:
    """Fill a folder with the merged model. `dtype`: one of FLOATS for all of it; None: as the base has it.

    Raises ValueError for an adapter that is not of this base, and for a base that is quantized.
    """
    additions, unties = _placed(base, adapter)
    tensors = [_merged(tensor, additions.get(name), dtype) for name, tensor in base.tensors.items()]
    if unties is not None:
        head = StoredTensor(f"{_HEAD}.weight", unties.path, unties.dtype, unties.shape)
        tensors.append(_merged(head, adapter.addition(_HEAD), dtype, stored_as=unties.name))
    with progress_of("merging", sum(tensor.num_bytes for tensor in tensors)) as advance:
        write_model(out, tensors, shard_bytes, advance)
    for path in base.other_files():
        shutil.copyfile(path, out / path.name)
    changed = _config(base, dtype, untied=_HEAD in adapter.layers)
    (out / "config.json").write_text(json.dumps(changed, indent=2) + "\n")


def _placed(base: BaseFolder, adapter: Adapter) -> tuple[Mapping[str, Addition], StoredTensor | None]:
    """What is added to which stored tensor; and the embedding, where a tied unembedding becomes one of its own."""
    found, unties = dict[str, Addition](), None
    for layer in adapter.layers:
        addition, name = adapter.addition(layer), _stored_name(base, layer)
        tensor = base.tensors.get(name) if name else None
        if tensor is None and layer == _HEAD:  # it is the embedding
            tensor = unties = _embedding(base)
        elif tensor is not None and name is not None:
            found[name] = addition
        if tensor is None:
            raise ValueError(f"the base in {base.folder} has no weight {layer}.weight; is it the adapter's base?")
        if tensor.shape != addition.shape:
            raise ValueError(
                f"{layer}: the adapter is for a weight of the shape {addition.shape}, and that of the base in "
                f"{base.folder} is {tensor.shape}; is it the adapter's base?"
            )
    return found, unties


def _stored_name(base: BaseFolder, layer: str) -> str | None:
    names = (f"{name}.weight" for name in stored_names(layer))
    return next((name for name in names if name in base.tensors), None)


def _embedding(base: BaseFolder) -> StoredTensor | None:
    found = [tensor for name, tensor in base.tensors.items() if name.endswith(_EMBEDDINGS)]
    return found[0] if len(found) == 1 else None


def _merged(
    tensor: StoredTensor, addition: Addition | None, dtype: str | None, *, stored_as: str | None = None
) -> WrittenTensor:
    is_float = tensor.dtype in FLOATS.values()
    if addition is not None and not is_float:
        raise ValueError(f"{tensor.name} is stored as {tensor.dtype}; merge into a base that is not quantized")
    if tensor.dtype not in DTYPES:
        raise ValueError(f"{tensor.name} is stored as {tensor.dtype}, which is not supported here")
    written = FLOATS[dtype] if dtype and is_float else tensor.dtype

    def pieces() -> Iterator[torch.Tensor]:
        with safe_open(tensor.path, framework="pt") as file:
            yield from _pieces(file.get_slice(stored_as or tensor.name), tensor.shape, addition, DTYPES[written])

    return WrittenTensor(tensor.name, written, tensor.shape, pieces)


def _pieces(
    stored: Any, shape: tuple[int, ...], addition: Addition | None, dtype: torch.dtype
) -> Iterator[torch.Tensor]:
    if not shape:
        yield stored[...].to(dtype)
        return
    per_row = max(1, torch.Size(shape[1:]).numel())
    rows = max(1, _PIECE // per_row)
    for first in range(0, shape[0], rows):
        end = min(first + rows, shape[0])
        piece: torch.Tensor = stored[first:end]
        if addition is not None:
            piece = piece.float() + addition.rows(first, end)
        yield piece.to(dtype)


def _config(base: BaseFolder, dtype: str | None, *, untied: bool) -> dict[str, Any]:
    config = json.loads(json.dumps(base.config))
    for part in (config, config.get("text_config")):
        if not isinstance(part, dict):
            continue
        if dtype is not None:
            part.update({name: dtype for name in ("dtype", "torch_dtype") if name in part} or {"dtype": dtype})
        if untied and "tie_word_embeddings" in part:
            part["tie_word_embeddings"] = False
    if untied:
        config["tie_word_embeddings"] = False
    return config
