from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli.box.up_lock import AlreadyUp, only_up

HOLD = """
import sys, time
from pathlib import Path
from cli.box.up_lock import only_up
with only_up(Path(sys.argv[1]), "http://127.0.0.1:1"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_holder_is_named_and_one_that_was_killed_blocks_nobody(tmp_path: Path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(AlreadyUp, match=f"pid {holder.pid}, http://127.0.0.1:1"), only_up(tmp_path, "http://b"):
            raise AssertionError("two hold it")
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with only_up(tmp_path, "http://c"):
        assert (tmp_path / "up.lock").read_text().endswith(" http://c\n")
    with only_up(tmp_path, "http://d"):
        pass


def test_the_lock_is_for_its_owner_alone(tmp_path: Path):
    with only_up(tmp_path, "http://a"):
        assert (tmp_path / "up.lock").stat().st_mode & 0o777 == 0o600
