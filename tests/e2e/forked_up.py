"""`headway up` in a fork of a process that has imported the command and all planes, once a test process: the imports of
a box's five processes take more than its first steps.

In the fork, the fork server of `up` (`cli.box.forking`) is forked from `up` itself, and server and runner are forked as
trainer and sampler are. The rest is `up` as anybody starts it. `/proc` shows the environment of the first process for
all of them: theirs are written to `environments` beside the data folder.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NoReturn
from unittest.mock import patch

from cli.box import fork_server, forking
from cli.box.children import Child, Children, Process
from cli.box.fork_server import ForkServer, can_fork_planes
from cli.box.forked_process import ForkedProcess
from cli.start import start
from wire.process.ending import end_process, status_of

_MODULES = (
    *("cli.box.trainers", "cli.box.up", "cli.commands.bases", "cli.commands.keys", "store.embedded"),
    *("sampler.backends.local", "sampler.chat.rendering", "sampler.main", "server.app", "server.main"),
    *("trainer.leader", "trainer.main", "uvicorn.lifespan.on", "uvicorn.loops.auto", "uvicorn.protocols.http.auto"),
    *("peft.tuners.lora.model", "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto"),
    "transformers.models.qwen3.modeling_qwen3",
)
"""Not the HUD SDK, which reads its variables when it is imported."""


def fork_headway(command: list[str], environment: Mapping[str, str], log: int) -> Process:
    """command: [python, "-m", "cli", "up", …], or a plane. log: a descriptor, which becomes its stdout and stderr. A
    process as any other where nothing can be forked."""
    if not can_fork_planes():
        from tests.conftest import heed_interrupts  # with a browser and more, which the forking process does without

        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, preexec_fn=heed_interrupts)
    process = _imported().fork(command, environment, log)
    assert process is not None, _imported().log.read_text()
    return process


class _Imported(ForkServer):
    """For any environment: nothing that is imported here reads it."""

    def fork(self, command: list[str], environment: Mapping[str, str], log: int) -> ForkedProcess | None:
        self._environment = dict(environment)
        return super().fork(command, environment, log)


@cache
def _imported() -> _Imported:
    """It ends with this process, which alone can ask it."""
    folder = Path(tempfile.mkdtemp(prefix="headway-test-forks-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with patch.object(fork_server, "_MODULE", __name__):
        return _Imported(folder / "log", os.environ)


def main() -> None:
    """As `cli.box.forking`'s, whose command line this is."""
    for name in (*forking.LIBRARIES, *_MODULES):
        import_module(name)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background of a script ignores it
    asked = forking._forks(socket.socket(fileno=int(sys.argv[1])), {})
    if asked is not None:
        forking._become(asked)
        ForkServer._start = _start_as_fork
        Children._forked = _forked
        end_process(status_of(start))


def _start_as_fork(server: ForkServer) -> None:
    """In place of ForkServer's."""
    server._is_ready = False
    server._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        server._connection.close()
        _serve_forks(theirs, server.log)
    theirs.close()
    server._process = ForkedProcess(sys.orig_argv, pid, os.open(os.devnull, os.O_WRONLY))


def _serve_forks(connection: socket.socket, log: Path) -> NoReturn:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for place in (1, 2):
        os.dup2(descriptor, place)
    asked = forking._forks(connection, {})
    if asked is not None:
        forking._become(asked)
        _write_environment()
        end_process(status_of(start))
    os._exit(0)


def _write_environment() -> None:
    folder = environments_of(Path(os.environ["HEADWAY_DATA_DIR"]))
    folder.mkdir(exist_ok=True)
    (folder / f"{os.getpid()}.json").write_text(json.dumps(dict(os.environ)))


def environments_of(data_dir: Path) -> Path:
    """The folder of those of all planes that were ever forked on a data folder."""
    return data_dir.with_name("environments")


def _forked(children: Children, child: Child, environment: dict[str, str], log: int) -> ForkedProcess | None:
    """In place of Children's: any child, in any environment."""
    server = children._fork_server
    if server is None:
        return None
    server._environment = environment
    return server.fork(child.command, environment, log)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
