"""The `hud` command of the unmodified SDK, each in a fork of a process that has imported it: its 2 s of imports are
spent once for an environment, not by every command.

Requests are lines of JSON on stdin, the answer is the exit status. When stdin closes, the process ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

HUD = Path(sys.executable).with_name("hud")
_TIMEOUT_S = 120.0


def run_hud(*args: str, cwd: Path | None = None, **changes: str) -> subprocess.CompletedProcess[str]:
    """`hud ARGS` with this process's environment and these changes to it. Killed after two minutes: status -9."""
    environment = {**os.environ, "COLUMNS": "200", **changes}
    environment.pop("PYTEST_CURRENT_TEST", None)
    return _imported(frozenset(environment.items())).run(args, cwd or Path.cwd())


class _Imported:
    """The process that is forked."""

    def __init__(self, environment: dict[str, str]) -> None:
        command = [sys.executable, __file__]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, env=environment, text=True, **pipes)

    def run(self, args: tuple[str, ...], cwd: Path) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder) / "out", Path(folder) / "err"
            request = {"args": args, "cwd": str(cwd), "out": str(out), "err": str(err)}
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            status = json.loads(self._process.stdout.readline())
            return subprocess.CompletedProcess([str(HUD), *args], status, out.read_text(), err.read_text())


@lru_cache(maxsize=2)  # whoever is not used any more has its stdin closed, and ends
def _imported(environment: frozenset[tuple[str, str]]) -> _Imported:
    return _Imported(dict(environment))


def _serve_forks() -> None:
    sys.path[0] = str(HUD.parent)
    from hud.cli.__main__ import main

    assert threading.active_count() == 1, "threads would be missing in a fork"
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _become(json.loads(line), main)
        patience = threading.Timer(_TIMEOUT_S, os.kill, (pid, signal.SIGKILL))
        patience.start()
        _, status = os.waitpid(pid, 0)
        patience.cancel()
        patience.join()
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _become(request: dict[str, Any], main: Callable[[], object]) -> NoReturn:
    """What `bin/hud` does."""
    status = 1
    try:
        os.chdir(request["cwd"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for target, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT), target)
        sys.argv = [str(HUD), *request["args"]]
        sys.exit(main())
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve_forks()
