"""A rank that is stopped is missed by the others; all of them, paused together and going on together, are not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from torch.distributed import TCPStore

LIMIT_S = 1.5
_MISSED = 3

_RANK = f"""
import os, sys
from trainer.distributed.pulse import Pulse

rank = int(sys.argv[1])
pulse = Pulse(rank, 2, {LIMIT_S})
print("counts", flush=True)
sys.stdin.readline()
pulse.start()
pulse.watch(1 - rank, lambda _: os._exit({_MISSED}))
print("watches", flush=True)
sys.stdin.read()
os._exit(0)
"""

Ranks = list[subprocess.Popen[str]]


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    """Two, which watch one another until their input ends."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    command = [sys.executable, "-c", _RANK]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    both = [subprocess.Popen([*command, str(rank)], text=True, env=environment, **pipes) for rank in range(2)]
    try:
        assert [_line(rank) for rank in both] == ["counts"] * 2
        for rank in both:
            assert rank.stdin
            rank.stdin.write("\n")
            rank.stdin.flush()
        assert [_line(rank) for rank in both] == ["watches"] * 2
        yield both
    finally:
        for rank in both:
            rank.kill()
            rank.communicate()


def _line(rank: subprocess.Popen[str]) -> str:
    assert rank.stdout
    return rank.stdout.readline().strip()


def test_one_that_is_stopped_is_missed(ranks: Ranks) -> None:
    stopped, other = ranks
    stopped.send_signal(signal.SIGSTOP)
    assert other.wait(20 * LIMIT_S) == _MISSED


def test_ranks_that_were_paused_together_go_on_together(ranks: Ranks) -> None:
    for rank in ranks:
        rank.send_signal(signal.SIGSTOP)
    time.sleep(2 * LIMIT_S)
    for rank in ranks:
        rank.send_signal(signal.SIGCONT)
    time.sleep(2 * LIMIT_S)
    assert [rank.poll() for rank in ranks] == [None, None]
