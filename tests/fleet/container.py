"""Becomes a container: `python -m tests.fleet.container SPEC.json`, as root, in namespaces of its own but for users.

The root file system is put together from the image (the Python that runs the tests, Headway's sources, a few files of
/etc) and the volumes, and nothing else of this machine is seen in it. The command is process 1 of its PID namespace, as
in a pod: signals that it does not handle are ignored, and its orphans are its own. Standard library alone: it starts
often.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

_MS_RDONLY, _MS_NOSUID, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 2, 32, 4096, 16384, 1 << 18
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_CLOCK = ("/run/headway-clock", "/run/headway-clock.so")  # of a host whose clock may be off (tests.fleet.clock)
_CLOCK_VARIABLES = ("LD_PRELOAD", "CLOCK_OFFSET_FILE")
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    os.umask(0o022)
    spec = json.loads(Path(sys.argv[1]).read_text())
    Path(spec["pid_file"]).write_text(os.readlink("/proc/self"))  # as the rest of the machine counts
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    root = Path(spec["root"])
    _mount("none", root, "tmpfs", _MS_NOSUID, "mode=755")
    _fill(root, spec)
    socket.sethostname(spec["hostname"])
    _enter(root)
    if spec["read_only"]:
        _mount("none", "/", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY)
    clock = {name: value for name, value in os.environ.items() if name in _CLOCK_VARIABLES}
    os.chdir(spec["cwd"])
    command = [*spec["become"], *spec["argv"]]
    os.execve(command[0], command, {**spec["env"], **clock})


def _fill(root: Path, spec: dict[str, Any]) -> None:
    for path, target in spec["links"].items():
        _under(root, path).parent.mkdir(parents=True, exist_ok=True)
        _under(root, path).symlink_to(target)
    for path, mode, uid in spec["folders"]:
        folder = _under(root, path)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)
        os.chown(folder, uid, uid)
    for path, source in spec["copies"].items():
        _under(root, path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, _under(root, path))
    for path, text in spec["files"].items():
        _under(root, path).parent.mkdir(parents=True, exist_ok=True)
        _under(root, path).write_text(text)
    _make_devices(root)
    (root / "proc").mkdir()
    _mount("proc", root / "proc", "proc", 0)
    clock = [[path, path, True] for path in _CLOCK if Path(path).exists()]
    for target, source, is_read_only in sorted([*spec["binds"], *clock]):
        _bind(Path(source), _under(root, target), is_read_only)


def _make_devices(root: Path) -> None:
    (root / "dev").mkdir()
    for name in _DEVICES:
        _bind(Path("/dev", name), root / "dev" / name, False)
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1")):
        (root / "dev" / name).symlink_to(target)
    (root / "dev" / "shm").mkdir()
    _mount("none", root / "dev" / "shm", "tmpfs", _MS_NOSUID, "mode=1777,size=64m")  # as Kubernetes has it


def _bind(source: Path, target: Path, is_read_only: bool) -> None:
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    elif not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    _mount(source, target, None, _MS_BIND | _MS_REC)
    if is_read_only:
        _mount("none", target, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY)


def _enter(root: Path) -> None:
    os.chdir(root)
    subprocess.run(("pivot_root", ".", "."), check=True)
    if _libc.umount2(b".", 2):  # detached: the machine's own tree, which lies over ours
        raise _error("umount2")
    os.chdir("/")


def _under(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _mount(source: object, target: object, kind: str | None, flags: int, options: str | None = None) -> None:
    coded = [None if part is None else str(part).encode() for part in (source, target, kind)]
    if _libc.mount(*coded, ctypes.c_ulong(flags), options and options.encode()):
        raise _error(f"mount {source} at {target}")


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
