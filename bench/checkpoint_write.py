"""How long a checkpoint takes to be safe on the disk, against a plain copy of the same files."""

from __future__ import annotations

import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from bench.clock import alternate
from bench.models import small_config
from bench.policies import MODEL, Policies, make_policies
from store.checkpoint_stores.file import FileCheckpointStore
from store.disk.durable import sync_file, sync_folder
from wire.engine import LoraConfig


def checkpoint_write(rank: int, rounds: int) -> tuple[dict[str, list[float]], int]:
    """Seconds by variant, one entry a round, and the bytes of a checkpoint.

    "save": the engine writes adapter and state, and they are synced. "copy": the same files, copied and synced.
    "publish": through the store of a deployment, whose manifest needs a SHA-256 of every file.
    """
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        policies = make_policies(small_config(), root / "policies", LoraConfig(rank=rank, alpha=rank))
        source = _save(policies, root / "source")
        num_bytes = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
        variants: dict[str, Callable[[Path], object]] = {
            "save": lambda folder: _sync(_save(policies, folder)),
            "copy": lambda folder: _sync(shutil.copytree(source, folder, copy_function=shutil.copyfile)),
            "publish": lambda folder: _publish(policies, FileCheckpointStore(folder)),
        }
        return alternate(variants, rounds, lambda variant: _wall_seconds(variant, root / "scratch")), num_bytes


def _wall_seconds(variant: Callable[[Path], object], folder: Path) -> float:
    started = time.perf_counter()
    variant(folder)
    seconds = time.perf_counter() - started
    shutil.rmtree(folder, ignore_errors=True)
    return seconds


def _save(policies: Policies, folder: Path) -> Path:
    for part in ("adapter", "state"):
        (folder / part).mkdir(parents=True)
    policies.engine.snapshot(MODEL).write(folder / "adapter", folder / "state")
    return folder


def _publish(policies: Policies, store: FileCheckpointStore) -> None:
    checkpoint = uuid.uuid4()
    with store.stage(MODEL, checkpoint) as staged:
        policies.engine.snapshot(MODEL).write(staged / "adapter", staged / "state")
        store.publish(MODEL, checkpoint, staged)
        store.settle(MODEL, checkpoint)


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            sync_file(path)
    for part in ("adapter", "state", "."):
        sync_folder(folder / part)
