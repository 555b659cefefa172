"""Adapter files as vLLM sees them: in folders of our own, each used for one load and never again.

vLLM reads an adapter's files again whenever it comes back from eviction, dies if they are gone, and keys its prefix
cache by name and path. Hard links cost nothing and outlive whatever the checkpoint store does.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import struct
import tempfile
from pathlib import Path

from sampler.adapter_config import CONFIG_FILE, WEIGHTS_FILE
from sampler.backends.vllm.base_tensors import BaseTensors


class AdapterFolders:
    """Makes and removes them."""

    def __init__(self, parent: Path | None, base: BaseTensors) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="headway-adapters-", dir=parent))
        self._base = base
        self._numbers = itertools.count()

    def take(self, name: str, source: Path | None) -> Path:
        """A new folder with the source's files; None: with a zero adapter."""
        folder = self._root / f"{name}-{next(self._numbers)}"
        folder.mkdir()
        if source is None:
            _write_zero_adapter(folder, self._base)
            return folder
        for file in (CONFIG_FILE, WEIGHTS_FILE):
            _link_or_copy(source / file, folder / file)
        return folder

    def remove(self, folder: Path) -> None:
        """Nothing reads it any more."""
        shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Remove all of them."""
        shutil.rmtree(self._root, ignore_errors=True)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def _write_zero_adapter(folder: Path, base: BaseTensors) -> None:
    """An adapter of rank one on one layer, all zeros; vLLM takes none without weights."""
    path = base.any_linear()
    linear = base.linear(path)
    assert linear is not None
    num_outputs, num_inputs = linear
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 1, "lora_alpha": 1, "bias": "none"}
    config["target_modules"] = [path.rpartition(".")[2]]  # pyright: ignore[reportArgumentType]
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    shapes = {"lora_A": (1, num_inputs), "lora_B": (num_outputs, 1)}
    header, end = {}, 0
    for side, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        key = f"base_model.model.{path}.{side}.weight"
        header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    (folder / WEIGHTS_FILE).write_bytes(struct.pack("<Q", len(encoded)) + encoded + bytes(end))
