"""A child whose parent is killed ends, too."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux says who has died")

CHILD = """
import os, signal, sys, time
from wire.process.lifeline import end_with_parent
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("asked to end", flush=True)))
end_with_parent(int(sys.argv[1]), signal.Signals[sys.argv[2]])
print(os.getpid(), flush=True)
time.sleep(60)
"""
PARENT = f"""
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {CHILD!r}, str(os.getpid()), sys.argv[1]])
time.sleep(60)
"""


@pytest.mark.parametrize(("signum", "words"), [("SIGTERM", "asked to end\n"), ("SIGKILL", "")])
def test_a_child_gets_the_signal_when_its_parent_is_killed(signum: str, words: str):
    with subprocess.Popen([sys.executable, "-c", PARENT, signum], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        assert parent.stdout.read() == words, "what the child wrote until it ended"
    until = time.monotonic() + 5
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_one_whose_parent_has_died_already_ends_at_once():
    done = subprocess.run([sys.executable, "-c", CHILD, "1", "SIGTERM"], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("asked to end\n", 0)
