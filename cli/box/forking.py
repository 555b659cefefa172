"""A process that has imported what trainers and samplers import, and forks them: a page that none of them writes to is
in memory once, and a plane starts without the seconds that its imports take.

`cli.box.fork_server` starts it as `python -m cli.box.forking SOCKET PADDING`, and asks for one process a message: its
command line and environment as JSON, its stdin and its log as descriptors. The answer is a process id, or 0 where there
is no room, or where a file that was imported has been replaced: a plane imports its own modules, which may not fit what
was there before. A plane is forked twice, so that it is an orphan at once, and becomes the child of whoever asked, who
reaps orphans meanwhile: its exit status and its signals are any child's, and it does not depend on this process.

A fork copies the calling thread alone. So nothing here runs another one: no OpenMP team, for nothing is computed, and
numpy's OpenBLAS, which does start one, ends it before each fork.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

LIBRARIES = (
    *("accelerate", "fastapi", "httpx", "numpy", "peft", "prometheus_client", "psycopg", "psycopg_pool"),
    *("safetensors.torch", "sqlalchemy.dialects.postgresql", "sqlalchemy.ext.asyncio", "sqlalchemy.orm", "structlog"),
    *("tokenizers", "torch", "transformers.generation.utils", "transformers.models.auto.image_processing_auto"),
    *("typer", "uvicorn"),
    *("cli.commands.planes", "store.catalog"),
)
"""Of one plane or both: what only one uses is in memory once in any case. None of a plane's own modules."""

READY = b"ready"
MAX_MESSAGE_BYTES = 1 << 20
Written = dict[str, tuple[int, int]]
"""Of each file that was imported, when it was written (nanoseconds), and its size in bytes."""
_PLACES_OF_ARGUMENTS = slice(45, 47)  # in /proc/self/stat, behind the name: where argv begins and ends


@dataclass(frozen=True, slots=True)
class _Asked:
    command: list[str]
    environment: dict[str, str]
    stdin: int
    log: int


def main() -> None:
    """Import, and fork until the socket closes. In a fork, run the command that was asked for."""
    for name in LIBRARIES:
        with suppress(ModuleNotFoundError):  # an installation without the extra of a plane
            import_module(name)
    written = _written(_imported_files())
    gc.collect()
    gc.freeze()  # a collection would write to every object
    asked = _forks(socket.socket(fileno=int(sys.argv[1])), written)
    if asked is not None:
        _become(asked)
        from cli.start import start

        start()


def _imported_files() -> list[str]:
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return [file for file in files if isinstance(file, str)]


def _written(files: Iterable[str]) -> Written:
    found = Written()
    for file in files:
        with suppress(OSError):
            status = os.stat(file)
            found[file] = status.st_mtime_ns, status.st_size
    return found


def _forks(connection: socket.socket, written: Written) -> _Asked | None:
    """In each fork, what it was asked to be. None once nobody can ask any more."""
    with connection:
        if not _is_alone():
            return None
        connection.send(READY)
        while True:
            message, descriptors, _, _ = socket.recv_fds(connection, MAX_MESSAGE_BYTES, 2)
            if not message:
                return None
            pid = _fork_orphan() if _written(written) == written else 0
            if pid is None:
                return _Asked(**json.loads(message), stdin=descriptors[0], log=descriptors[1])
            for descriptor in descriptors:
                os.close(descriptor)
            connection.send(str(pid).encode())


def _is_alone() -> bool:
    """Whether a fork copies all that runs here: one thread is left once those have ended that end before a fork."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return len(os.listdir("/proc/self/task")) == 1


def _fork_orphan() -> int | None:
    """Its process id, 0 if there is no room for it; None in the fork itself."""
    reading, writing = os.pipe()
    between = os.fork()
    if between == 0:
        try:
            pid = os.fork()
        except OSError:
            pid = -1
        if pid == 0:
            os.close(reading)
            os.close(writing)
            return None
        os.write(writing, str(max(pid, 0)).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(between, 0)
    with os.fdopen(reading, "rb") as answer:
        return int(answer.read() or 0)


def _become(asked: _Asked) -> None:
    os.setsid()
    for own, place in ((asked.stdin, 0), (asked.log, 1), (asked.log, 2)):
        os.dup2(own, place)
    os.close(asked.stdin)
    os.close(asked.log)
    os.environ.clear()
    os.environ.update(asked.environment)
    sys.argv[1:] = asked.command[3:]
    sys.orig_argv[:] = asked.command
    _show(asked.command)


def _show(command: list[str]) -> None:
    """Have `ps` and `pgrep` show this command line: it goes where the one lies that this process was started with."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = map(int, fields[_PLACES_OF_ARGUMENTS])
    shown = "\0".join(command).encode()[: end - start - 1]
    ctypes.memmove(start, shown.ljust(end - start, b"\0"), end - start)


if __name__ == "__main__":
    main()
