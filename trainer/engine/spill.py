"""Moves sessions to files of a private folder, for as long as this process lives.

The op log and the checkpoints are the truth, so nothing here is fsynced, and a crash loses nothing that a replay does
not bring back. What is read is checked against what was written: a file that was damaged, or cleaned away, is an
error and never weights.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from trainer.engine.lora_layout import LoraLayout
from trainer.engine.session import Session
from wire.engine import LoraConfig
from wire.errors import SpillLost

_PREFIX = "headway-spill-"


@dataclass(frozen=True, slots=True, eq=False)
class SpilledSession:
    """Where a session lies, and what must be found there. checksums: CRC-32 of each buffer's bytes."""

    lora: LoraConfig
    layout: LoraLayout
    num_steps: int
    num_bytes: int
    dtype: torch.dtype
    checksums: Mapping[str, int]
    path: Path


class SpillFolder:
    """A folder of one process under `root` (None: the system's for temporary files), made when it is first needed.

    Mode 0700, gone when the process ends. Folders that a killed process left behind go when the next is made.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._root = root or Path(tempfile.gettempdir())
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._lock: int | None = None

    def write(self, session: Session) -> SpilledSession:
        """Park a session. Raises OSError or SafetensorError, and leaves no file, if the disk does not take it."""
        path = self._made() / f"{uuid.uuid4().hex}.safetensors"
        buffers = {name: buffer.cpu() for name, buffer in session.buffers().items()}
        try:
            save_file(buffers, path)
        except (OSError, SafetensorError):
            path.unlink(missing_ok=True)
            raise
        return SpilledSession(
            lora=session.lora,
            layout=session.layout,
            num_steps=session.num_steps,
            num_bytes=session.num_bytes,
            dtype=session.weights.dtype,
            checksums={name: _checksum(buffer) for name, buffer in buffers.items()},
            path=path,
        )

    def take(self, spilled: SpilledSession, device: torch.device) -> Session:
        """The session as it was, on the device; its file is gone. Raises SpillLost if it is not what was written."""
        try:
            # Copies: safetensors maps the file, and its pages would be read when they are needed, or not be there.
            buffers = {name: buffer.clone() for name, buffer in load_file(spilled.path).items()}
        except (OSError, SafetensorError) as error:
            raise SpillLost(f"weights that were parked on disk cannot be read: {error}") from error
        finally:
            self.remove(spilled)
        _check(buffers, spilled)
        buffers = {name: buffer.to(device) for name, buffer in buffers.items()}
        return Session(spilled.lora, spilled.layout, num_steps=spilled.num_steps, **buffers)

    def remove(self, spilled: SpilledSession) -> None:
        """Remove a session's files."""
        spilled.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the folder and all that is in it."""
        if self._folder is not None:
            self._folder.cleanup()
        if self._lock is not None:
            os.close(self._lock)
        self._folder = self._lock = None

    def _made(self) -> Path:
        # Something may have swept it away: whatever cleans folders of temporary files, or a trainer that began between
        # the two lines that make and lock it.
        if self._folder is None or self._lock is None or not Path(self._folder.name).is_dir():
            self.close()
            self._root.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(self._root)
            self._folder = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=self._root, ignore_cleanup_errors=True)
            self._lock = _lock(Path(self._folder.name))
        return Path(self._folder.name)


def _check(buffers: Mapping[str, torch.Tensor], spilled: SpilledSession) -> None:
    if buffers.keys() != spilled.checksums.keys():
        raise SpillLost("weights that were parked on disk came back incomplete")
    for name, buffer in buffers.items():
        expected = spilled.dtype, (spilled.layout.num_parameters,), spilled.checksums[name]
        if (buffer.dtype, tuple(buffer.shape), _checksum(buffer)) != expected:
            raise SpillLost(f"weights that were parked on disk came back damaged: {name} is not what was written")


def _checksum(buffer: torch.Tensor) -> int:
    return zlib.crc32(buffer.numpy().data)


def _lock(folder: Path) -> int | None:
    """A descriptor whose lock shows other processes that this folder's owner lives; None if somebody else holds it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_abandoned(root: Path) -> None:
    for folder in root.glob(f"{_PREFIX}*"):
        try:
            descriptor = _lock(folder)
        except OSError:
            continue  # another user's, or gone by now
        if descriptor is None:
            continue
        if os.fstat(descriptor).st_uid == os.getuid():
            shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)
