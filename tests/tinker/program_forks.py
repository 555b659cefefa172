"""A process that has imported the Tinker SDK and runs programs in forks of it, for the imports take 3 to 5 s.

Requests are lines of JSON on stdin, `Request`; the answer is the exit status of the program, which runs as
`tests.tinker.sdks.RUN` would run it.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import traceback
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import PIPE, CompletedProcess, Popen
from tempfile import TemporaryDirectory


@dataclass(frozen=True, slots=True)
class Request:
    """arguments: a module or a file, and what it is given. output: a folder for what it prints. After `timeout_s` it is
    killed. refuses_warnings: a FutureWarning ends it."""

    arguments: list[str]
    environment: dict[str, str]
    cwd: str
    output: str
    timeout_s: int
    refuses_warnings: bool


class ProgramForks:
    """The process, from the outside."""

    def __init__(self) -> None:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-W", "error::FutureWarning", "-m", "tests.tinker.program_forks"]
        self._process = Popen(command, stdin=PIPE, stdout=PIPE, text=True, env=environment)

    def run(
        self,
        arguments: list[str],
        environment: dict[str, str],
        timeout_s: int,
        *,
        cwd: Path | None = None,
        refuses_warnings: bool = False,
    ) -> CompletedProcess[str]:
        """Wait for a program."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with TemporaryDirectory() as output:
            where = str(cwd or Path.cwd()), output
            request = Request(arguments, {**os.environ, **environment}, *where, timeout_s, refuses_warnings)
            self._process.stdin.write(json.dumps(asdict(request)) + "\n")
            self._process.stdin.flush()
            status = int(self._process.stdout.readline())
            out, err = (Path(output, name).read_text() for name in ("out", "err"))
        return CompletedProcess(arguments, status, out, err)

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def main() -> None:
    import tinker
    from transformers import AutoTokenizer

    _ = tinker, AutoTokenizer
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _become(Request(**json.loads(line)))
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _become(request: Request) -> None:
    """Never returns."""
    signal.alarm(request.timeout_s)
    if not request.refuses_warnings:
        warnings.simplefilter("ignore", FutureWarning)
    for fd, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(request.output, name), os.O_CREAT | os.O_WRONLY), fd)
    os.chdir(request.cwd)
    os.environ.clear()
    os.environ.update(request.environment)
    sys.argv = request.arguments
    run = runpy.run_path if sys.argv[0].endswith(".py") else runpy.run_module
    status = 0
    try:
        run(sys.argv[0], run_name="__main__")
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
