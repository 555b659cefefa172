"""Proof that the process of each rank runs, where ranks wait without a limit: a number that its thread counts up.

A rank that dies closes its connections. One that is stopped, or whose host is gone, does not; while ranks load, each
from its own disk, and while followers wait for rank 0's next call, nobody would miss it. A disk that is slow and a
database that is away are no silence, for the thread goes on; so it does while rank 0's loop hangs, but that the
watchdog ends (`trainer.worker.watchdog`), a thread as this one is: where no thread runs, the others notice.

Numbers are in the store by which the ranks have met, and so is that a rank was asked to stop: SIGTERM comes to all
ranks of a host, and rank 0 may be on another.
"""

# W ranks

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta

from torch.distributed import PrefixStore, TCPStore

from wire.errors import RanksLost

_COUNTS_IN_LIMIT, _MOST_S = 10, 5.0
"""How often a rank counts up in the time after which it is missed; and how seldom at most."""

_COUNTS_TO_BE_SURE = 2
"""After a pause the first of them brings this rank's own thread up to date, and the next one what others have said."""

_STOP = "stop"


class RankSilent(RanksLost):
    """A rank has not been heard of for too long. It would not vote either."""


class Pulse:
    """Of this rank, and what it knows of all W."""

    def __init__(self, rank: int, size: int, limit_s: float, environment: Mapping[str, str] = os.environ) -> None:
        """limit_s: of silence. environment: as torchrun sets it. A collective follows before anybody is watched."""
        address, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
        store = TCPStore(address, port, timeout=timedelta(seconds=limit_s), wait_for_workers=False)
        self._store = PrefixStore("headway-pulse", store)
        self._rank, self._limit_s = rank, limit_s
        self._every_s = min(limit_s / _COUNTS_IN_LIMIT, _MOST_S)
        self._place = f"pid {os.getpid()} on {socket.gethostname()}"
        self._looked_at = time.monotonic()
        self._heard_W = [("", self._looked_at)] * size
        self._is_over = threading.Event()
        self._asked_to_stop: Callable[[], object] | None = None
        if rank == 0:
            self._store.set(_STOP, "")
        self._count(0)
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """Once all ranks have counted."""
        self._looked_at = time.monotonic()
        self._heard_W = [("", self._looked_at)] * len(self._heard_W)
        self._thread.start()

    def close(self) -> None:
        """Count no more, and watch nobody."""
        self._is_over.set()
        self._thread.join(self._limit_s)

    def require(self, ranks: Iterable[int]) -> None:
        """Raises RankSilent where one of them has been silent for too long, or nothing can be heard here at all; and
        still is so after a few counts, since ranks that were paused together, with their machine, go on together."""
        watched = list(ranks)
        silence = self._silence_of(watched)
        if silence is None or self._is_over.wait(_COUNTS_TO_BE_SURE * self._every_s):
            return
        if self._silence_of(watched) is not None:
            raise silence

    def require_all(self) -> None:
        """As `require`, of every rank."""
        self.require(range(len(self._heard_W)))

    def watch(self, rank: int, silent: Callable[[RankSilent], object]) -> None:
        """Call `silent`, in a thread, when that one has been silent for too long."""

        def watch() -> None:
            while not self._is_over.wait(self._every_s):
                try:
                    self.require([rank])
                except RankSilent as error:
                    silent(error)
                    return

        threading.Thread(target=watch, name="pulse-watch", daemon=True).start()

    def ask_to_stop(self) -> None:
        """Have rank 0 stop."""
        with suppress(RuntimeError):  # the store is gone, and with it the group
            self._store.set(_STOP, "1")

    def when_asked_to_stop(self, stop: Callable[[], object]) -> None:
        """Of rank 0: called once, in a thread, when a rank has asked."""
        self._asked_to_stop = stop

    def _silence_of(self, ranks: Sequence[int]) -> RankSilent | None:
        if (for_s := time.monotonic() - self._looked_at) > self._limit_s:
            return RankSilent(
                f"rank {self._rank} ({self._place}) has not reached the other ranks for {for_s:.0f} s: see whether its "
                "network and the host of the rendezvous are up; another trainer goes on"
            )
        for rank in ranks:
            said, heard_at = self._heard_W[rank]
            if (for_s := self._looked_at - heard_at) > self._limit_s:
                return RankSilent(
                    f"rank {rank} of {len(self._heard_W)} ({said.partition(' ')[2]}) has not been heard of for "
                    f"{for_s:.0f} s: see whether it was stopped, and whether its host is up; another trainer goes on"
                )
        return None

    def _run(self) -> None:
        number = 0
        while not self._is_over.wait(self._every_s):
            number += 1
            try:
                self._count(number)
                self._look()
            except RuntimeError:  # the store is gone for good: from now on nobody is heard, and that is noticed
                return

    def _count(self, number: int) -> None:
        self._store.set(str(self._rank), f"{number} {self._place}")

    def _look(self) -> None:
        stop, *found = self._store.multi_get([_STOP, *(str(rank) for rank in range(len(self._heard_W)))])
        self._looked_at = time.monotonic()
        if stop and self._asked_to_stop is not None:
            self._asked_to_stop()
            self._asked_to_stop = None
        for rank, said in enumerate(each.decode() for each in found):
            if said != self._heard_W[rank][0]:
                self._heard_W[rank] = (said, self._looked_at)
