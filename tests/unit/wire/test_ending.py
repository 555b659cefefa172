"""How a process ends that nothing may keep."""

from __future__ import annotations

import subprocess
import sys

import pytest

END_S = 60.0
ENDING = "import atexit, sys, threading; from wire.process.ending import end_process, status_of\n"


def ended(code: str, *, stdout: int | None = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """Raises subprocess.TimeoutExpired."""
    return subprocess.run(
        [sys.executable, "-c", ENDING + code],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=END_S,
        check=False,
    )


def test_exit_functions_run_and_what_was_printed_is_written_though_a_thread_goes_on():
    done = ended(
        "threading.Thread(target=threading.Event().wait).start()\n"
        "atexit.register(lambda: print('last'))\nprint('first')\nend_process(7)"
    )
    assert (done.returncode, done.stdout) == (7, "first\nlast\n")


def test_an_exit_function_that_never_ends_does_not_keep_the_process():
    assert ended("atexit.register(threading.Event().wait)\nend_process(7, within_s=0.1)").returncode == 7


def test_an_exit_function_that_fails_does_not_change_the_status():
    done = ended("atexit.register(lambda: 1 / 0)\nend_process(7)")
    assert done.returncode == 7
    assert "ZeroDivisionError" in done.stderr


def test_a_process_whose_streams_are_closed_ends_with_its_status():
    assert ended("print('unread')\nsys.stdout.close()\nend_process(7)").returncode == 7


def test_a_process_that_never_had_streams_ends_with_its_status():
    command = ["sh", "-c", 'exec "$0" -c "$1" >&- 2>&-', sys.executable, ENDING + "end_process(7)"]
    assert subprocess.run(command, timeout=END_S, check=False).returncode == 7


def test_any_thread_may_end_the_process():
    assert ended("threading.Thread(target=end_process, args=[7]).start()\nthreading.Event().wait()").returncode == 7


@pytest.mark.parametrize(
    ("work", "said"),
    [
        ("pass", ""),
        ("sys.exit()", ""),
        ("sys.exit(0)", ""),
        ("sys.exit(78)", ""),
        ("sys.exit('no room')", "no room"),
        ("raise ValueError('a bug')", "ValueError: a bug"),
    ],
)
def test_a_status_is_the_one_with_which_the_interpreter_would_end(work: str, said: str):
    as_ever = ended(work)
    done = ended(f"def work():\n    {work}\nend_process(status_of(work))")
    assert done.returncode == as_ever.returncode
    assert said in done.stderr
    assert said in as_ever.stderr
