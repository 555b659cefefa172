"""Adapter files as vLLM sees them: in folders of our own, each used for one load and never again.

vLLM reads an adapter's files again whenever it comes back from eviction, dies if they are gone, and keys its prefix
cache by name and path. Hard links cost nothing and outlive whatever the checkpoint store does.
"""

from __future__ import annotations

import fcntl
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

_PREFIX = "headway-adapters-"
_ATTEMPTS = 20


class AdapterFolders:
    """Makes and removes them, all in one folder that this process keeps locked while it lives."""

    def __init__(self, parent: Path | None, base: BaseTensors) -> None:
        self._root, self._lock = _own_folder(parent)
        _remove_abandoned(self._root.parent)
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
        os.close(self._lock)


def _own_folder(parent: Path | None) -> tuple[Path, int]:
    """A new folder, and its lock. Another sampler that starts may take it for abandoned before it is locked. Raises
    OSError on a file system without locks."""
    for _ in range(_ATTEMPTS):
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock = _lock(folder)
        if lock is not None:
            return folder, lock
        shutil.rmtree(folder, ignore_errors=True)
    raise OSError(f"folders in {parent or tempfile.gettempdir()} cannot be locked; choose another --vllm-adapter-dir")


def _remove_abandoned(parent: Path) -> None:
    """Folders whose process is gone."""
    for folder in parent.glob(f"{_PREFIX}*"):
        lock = _lock(folder)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock until it is closed. None: another process holds it, or removed it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder.stat()
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


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
