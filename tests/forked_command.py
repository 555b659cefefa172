"""Commands, each in a fork of a process that has imported them: their seconds of imports are spent once for an
environment, not by every command.

`python FILE HOW`: HOW says, as JSON, what is imported, and which function is the command. Requests are lines of JSON on
stdin, the answer is the exit status. When stdin closes, the process ends.
"""

from __future__ import annotations

import atexit
import json
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Command:
    """program: its argv[0], whose folder modules are looked for in, too. function: `module:name`. imports: modules
    beside that, which it imports when it runs. runs_exit_functions: once it has returned."""

    program: str
    function: str
    imports: tuple[str, ...] = ()
    runs_exit_functions: bool = False

    def run(self, args: tuple[str, ...], cwd: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Killed after two minutes: status -9."""
        kept = frozenset((name, value) for name, value in environment.items() if name != "PYTEST_CURRENT_TEST")
        return _imported(self, kept).run(args, cwd)


class _Imported:
    """The process that is forked."""

    def __init__(self, command: Command, environment: dict[str, str]) -> None:
        self._program = command.program
        how = json.dumps(asdict(command))
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen([sys.executable, __file__, how], env=environment, text=True, **pipes)

    def run(self, args: tuple[str, ...], cwd: Path) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder) / "out", Path(folder) / "err"
            request = {"args": args, "cwd": str(cwd), "out": str(out), "err": str(err)}
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            status = json.loads(self._process.stdout.readline())
            return subprocess.CompletedProcess([self._program, *args], status, out.read_text(), err.read_text())


@lru_cache(maxsize=4)  # whoever is not used any more has its stdin closed, and ends
def _imported(command: Command, environment: frozenset[tuple[str, str]]) -> _Imported:
    return _Imported(command, dict(environment))


def _serve_forks(command: Command) -> None:
    sys.path[0] = str(Path(command.program).parent)
    for name in command.imports:
        import_module(name)
    function = pkgutil.resolve_name(command.function)
    assert threading.active_count() == 1, "threads would be missing in a fork"
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _become(json.loads(line), command, function)
        patience = threading.Timer(_TIMEOUT_S, os.kill, (pid, signal.SIGKILL))
        patience.start()
        _, status = os.waitpid(pid, 0)
        patience.cancel()
        patience.join()
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _become(request: dict[str, Any], command: Command, function: Callable[[], object]) -> NoReturn:
    """What the script of an installed command does."""
    status = 1
    try:
        os.chdir(request["cwd"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for target, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT), target)
        sys.argv = [command.program, *request["args"]]
        sys.exit(function())
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        if command.runs_exit_functions:
            atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve_forks(Command(**json.loads(sys.argv[1])))
