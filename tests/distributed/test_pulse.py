"""A rank that is stopped is missed by the others; all of them, paused together and going on together, are not."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import pytest
from torch.distributed import TCPStore

from tests.distributed.processes import processes_with_torch
from trainer.distributed.pulse import Pulse

LIMIT_S = 1.5
_MISSED = 3


@dataclass(frozen=True, slots=True)
class Rank:
    process: BaseProcess
    connection: Connection

    def send_signal(self, signum: int) -> None:
        assert self.process.pid
        os.kill(self.process.pid, signum)


def _watch(rank: int, port: int, connection: Connection) -> None:
    """What a rank runs, until the connection ends."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    pulse = Pulse(rank, 2, LIMIT_S)
    connection.send("counts")
    connection.recv()
    pulse.start()
    pulse.watch(1 - rank, lambda _: os._exit(_MISSED))
    connection.send("watches")
    try:
        connection.recv()
    finally:
        os._exit(0)


@pytest.fixture
def ranks() -> Iterator[Sequence[Rank]]:
    """Two, which watch one another."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    both = [_started(rank, store.port) for rank in range(2)]
    try:
        assert [rank.connection.recv() for rank in both] == ["counts"] * 2
        for rank in both:
            rank.connection.send(None)
        assert [rank.connection.recv() for rank in both] == ["watches"] * 2
        yield both
    finally:
        for rank in both:
            rank.process.kill()
            rank.process.join()
            rank.connection.close()


def _started(rank: int, port: int) -> Rank:
    context = processes_with_torch()
    ours, theirs = context.Pipe()
    process = context.Process(target=_watch, args=(rank, port, theirs), name=f"rank-{rank}", daemon=True)
    process.start()
    theirs.close()
    return Rank(process, ours)


def test_one_that_is_stopped_is_missed(ranks: Sequence[Rank]) -> None:
    stopped, other = ranks
    stopped.send_signal(signal.SIGSTOP)
    other.process.join(20 * LIMIT_S)
    assert other.process.exitcode == _MISSED


def test_ranks_that_were_paused_together_go_on_together(ranks: Sequence[Rank]) -> None:
    for rank in ranks:
        rank.send_signal(signal.SIGSTOP)
    time.sleep(2 * LIMIT_S)
    for rank in ranks:
        rank.send_signal(signal.SIGCONT)
    time.sleep(2 * LIMIT_S)
    assert [rank.process.exitcode for rank in ranks] == [None, None]
