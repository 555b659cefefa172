"""What a power cut leaves of a folder: a recorder of file operations, and a disk on which what was not synced is lost.

A SIGKILL cannot show a missing fsync: the kernel still writes everything. So the operations of real code on a real
folder are recorded as they happen, and replayed up to any of them on a model of a disk: content lasts since its file
was fsynced, a name since its folder was. What was not synced may last or not: a draw decides for each.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR
_GIVEN_UP = b"\0" * 16  # a file that was made, but whose content was lost


@dataclass(frozen=True, slots=True)
class Step:
    """`make`, `create`, `rename`, `remove`, `sync` or `mark`, and its paths. A sync knows what it pushed."""

    what: str
    path: Path
    target: Path | None = None
    content: bytes | None = None
    label: Any = None


class Killed(BaseException):
    """The process is dead: whatever it still tries does not happen."""


class Recorder:
    """The operations of this process under `root`. After `kill_at` of them, each further one raises Killed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.steps: list[Step] = []
        self.kill_at: int | None = None

    def mark(self, label: Any) -> None:
        """Note that the code has promised something."""
        self.steps.append(Step("mark", self.root, label=label))

    @contextmanager
    def recording(self) -> Generator[None]:
        global _recorder
        fsync, _recorder = os.fsync, self
        _install_hook()
        os.fsync = self._fsync(fsync)
        try:
            yield
        finally:
            _recorder, os.fsync = None, fsync

    def note(self, step: Step) -> None:
        if not step.path.is_relative_to(self.root) and step.path != self.root.parent:
            return
        if self.kill_at is not None and sum(s.what != "mark" for s in self.steps) >= self.kill_at:
            raise Killed
        self.steps.append(step)

    def _fsync(self, fsync: Callable[[int], None]) -> Callable[[int], None]:
        def recorded(descriptor: int) -> None:
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            self.note(Step("sync", path, content=None if path.is_dir() else path.read_bytes()))
            fsync(descriptor)

        return recorded


_recorder: Recorder | None = None
_hooked = False


def _install_hook() -> None:
    """Audit hooks see what the interpreter is about to do, and cannot be taken off again."""
    global _hooked
    if not _hooked:
        sys.addaudithook(_heard)
        _hooked = True


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if _recorder is None:
        return
    if event == "open" and isinstance(arguments[0], str) and isinstance(arguments[2], int) and arguments[2] & _WRITES:
        _recorder.note(Step("create", Path(arguments[0])))
    elif event == "os.mkdir":
        _recorder.note(Step("make", Path(arguments[0])))
    elif event == "os.rename":
        _recorder.note(Step("rename", Path(arguments[0]), Path(arguments[1])))
    elif event in ("os.remove", "os.rmdir") and Path(arguments[0]).is_absolute():  # rmtree's are relative: staging
        _recorder.note(Step("remove", Path(arguments[0])))


@dataclass(eq=False, slots=True)
class _Node:
    """A file with the content that lasts, or a folder with the names that last and those that do not yet."""

    is_folder: bool
    content: bytes = _GIVEN_UP
    names: dict[str, _Node] = field(default_factory=dict)
    lasting: dict[str, _Node] = field(default_factory=dict)
    pending: list[tuple[str, _Node | None]] = field(default_factory=list)


class Disk:
    """The model. `root` is there and lasts, as the folder that an administrator made."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._top = _Node(is_folder=True)

    def apply(self, step: Step) -> None:
        """As the kernel did: a step whose folder or file is not there has failed, and changed nothing."""
        with contextlib.suppress(KeyError):
            self._apply(step)

    def _apply(self, step: Step) -> None:
        if step.what in ("make", "create"):
            folder, name = self._place(step.path)
            if name not in folder.names:
                self._name(folder, name, _Node(is_folder=step.what == "make"))
        elif step.what == "rename":
            assert step.target is not None
            (source, old), (target, new) = self._place(step.path), self._place(step.target)
            self._name(target, new, source.names[old])
            self._name(source, old, None)
        elif step.what == "remove":
            folder, name = self._place(step.path)
            if name in folder.names:
                self._name(folder, name, None)
        elif step.what == "sync":
            self._sync(step)

    def cut_power(self, draw: random.Random, onto: Path) -> None:
        """Write what is left. Of what was not synced, a part in the order in which it was done lasts by luck."""
        self._leave(self._top, draw, onto)

    def _leave(self, folder: _Node, draw: random.Random, onto: Path) -> None:
        names = dict(folder.lasting)
        for name, node in folder.pending[: draw.choice((0, 0, draw.randint(0, len(folder.pending))))]:
            names.pop(name, None)
            if node is not None:
                names[name] = node
        onto.mkdir(parents=True, exist_ok=True)
        for name, node in names.items():
            if node.is_folder:
                self._leave(node, draw, onto / name)
            else:
                (onto / name).write_bytes(node.content)

    def _sync(self, step: Step) -> None:
        node = self._top
        for name in step.path.relative_to(self._root).parts:
            node = node.names[name]
        if node.is_folder:
            node.lasting, node.pending = dict(node.names), []
        else:
            assert step.content is not None
            node.content = step.content

    def _name(self, folder: _Node, name: str, node: _Node | None) -> None:
        folder.names.pop(name, None)
        if node is not None:
            folder.names[name] = node
        folder.pending.append((name, node))

    def _place(self, path: Path) -> tuple[_Node, str]:
        node, parts = self._top, path.relative_to(self._root).parts
        for name in parts[:-1]:
            node = node.names[name]
        return node, parts[-1]


def cuts(recorder: Recorder, root: Path, onto: Path, seed: int) -> Generator[tuple[int, list[Any], Path]]:
    """For a cut after each operation: its number, what had been promised by then, and a folder with what is left.

    root: the folder that was there before.
    """
    draw = random.Random(seed)
    for end in range(len(recorder.steps) + 1):
        disk, promised = Disk(root), [step.label for step in recorder.steps[:end] if step.what == "mark"]
        for step in recorder.steps[:end]:
            disk.apply(step)
        left = onto / f"{end}"
        disk.cut_power(draw, left)
        yield end, promised, left
