"""Adapter files as vLLM sees them: in folders of our own, each used for one load and never again.

vLLM reads an adapter's files again whenever it comes back from eviction, dies if they are gone, and keys its prefix
cache by name and path. Hard links cost nothing and outlive whatever the checkpoint store does.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import random
import shutil
import struct
import tempfile
from array import array
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

    def take_random(self, name: str, path: str) -> Path:
        """A new folder with an adapter on the layer at `path` that changes the logits."""
        folder = self._root / f"{name}-{next(self._numbers)}"
        folder.mkdir()
        _write_random_adapter(folder, self._base, path)
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
    num_outputs, num_inputs = _linear(base, path)
    _write_rank_one(folder, path, array("f", bytes(4 * num_inputs)), array("f", bytes(4 * num_outputs)))


def _write_random_adapter(folder: Path, base: BaseTensors, path: str) -> None:
    """An adapter of rank one on the layer at `path`, which changes logits by about one."""
    draws = random.Random(path)  # noqa: S311
    num_outputs, num_inputs = _linear(base, path)
    a_I = array("f", (draws.gauss(0.0, num_inputs**-0.5) for _ in range(num_inputs)))
    _write_rank_one(folder, path, a_I, array("f", (draws.gauss(0.0, 1.0) for _ in range(num_outputs))))


def _write_rank_one(folder: Path, path: str, a_I: array[float], b_O: array[float]) -> None:
    """The files of an adapter in PEFT layout whose one update is b_O · a_I."""
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 1, "lora_alpha": 1, "bias": "none"}
    config["target_modules"] = [path.rpartition(".")[2]]  # pyright: ignore[reportArgumentType]
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    num_a, num_b = 4 * len(a_I), 4 * len(b_O)
    sides = {"lora_A": ((1, len(a_I)), [0, num_a]), "lora_B": ((len(b_O), 1), [num_a, num_a + num_b])}
    header = {
        f"base_model.model.{path}.{side}.weight": {"dtype": "F32", "shape": shape, "data_offsets": offsets}
        for side, (shape, offsets) in sides.items()
    }
    encoded = json.dumps(header).encode()
    content = struct.pack("<Q", len(encoded)) + encoded + a_I.tobytes() + b_O.tobytes()
    (folder / WEIGHTS_FILE).write_bytes(content)


def _linear(base: BaseTensors, path: str) -> tuple[int, int]:
    linear = base.linear(path)
    assert linear is not None
    return linear
