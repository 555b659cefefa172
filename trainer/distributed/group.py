"""torch.distributed as the ranks of an engine: votes, small objects, sums in order, and the calls that rank 0 sends.

Three groups of processes, so that none waits behind another's traffic: the default one moves tensors on the device, a
gloo group votes and moves small objects, and on a second gloo group the followers wait for the next call, for as long
as there is none. The first two have a time limit below that of a lease: a group that hangs ends before anybody else
can have been given its models, and one that was stopped and goes on finds that it has lost them. Where there is no
limit, a rank is missed by its pulse (`trainer.distributed.pulse`).

What this process can do nothing about, a peer that is gone or does something else, is DeviceLost: the process ends,
with it the group, and the next trainer replays.
"""

# W ranks

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from trainer.distributed.ordered_sum import OrderedSum
from trainer.distributed.peers import lost_behind, lost_peer, peers_there
from trainer.distributed.pulse import Pulse, RankSilent
from trainer.engine.ranks import Found, Signal
from wire.errors import DeviceLost, HeadwayError
from wire.process.faults import fault_point

_IDLE = timedelta(days=30)
"""How long a follower waits for a call. A trainer that had nothing to do for so long ends, and is started again."""

_MEETING_S = 0.02
"""Between two looks at who is still there."""

_FINE, _REFUSED, _BROKEN = range(3)


class FailedElsewhere(RuntimeError):
    """What another rank has raised, by its words: that rank's log has the rest."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the engine. number: how many were sent before it."""

    number: int
    method: str
    arguments: tuple[Any, ...]


class RankGroup:
    """This process among the ranks of one trainer. Implements `trainer.engine.ranks.Ranks`."""

    def __init__(self, limit_s: float) -> None:
        """The default process group is there already. limit_s: of one collective, and of a rank's silence elsewhere."""
        limit = timedelta(seconds=limit_s)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.pulse = Pulse(self.rank, self.size, limit_s)
        self._control, self._calls = _gloo(limit), _gloo(_IDLE)
        self.pulse.start()
        self._num_votes = 0
        self._num_calls = 0

    @contextmanager
    def agreed(self) -> Generator[None]:
        """See `Ranks.agreed`. Raises DeviceLost where the ranks cannot agree any more."""
        error: Exception | None = None
        try:
            yield
        except RankSilent:
            raise
        except Exception as raised:
            error = raised
        agreed = self._agree_on(error)
        if agreed is None:
            return
        if agreed is error:
            raise agreed
        raise agreed from error

    def gathered(self, mine: Found) -> Sequence[Found]:
        """See `Ranks.gathered`. What is sent must be picklable."""
        found: list[Any] = [None] * self.size
        with peers_there():
            dist.all_gather_object(found, mine, group=self._control)
        return found

    def copy_from_first(self, tensor: torch.Tensor) -> None:
        """See `Ranks.copy_from_first`."""
        with peers_there():
            dist.broadcast(tensor, src=0)

    def shard_sum(self, num_shards: int, like: torch.Tensor) -> OrderedSum:
        """See `Ranks.shard_sum`."""
        return OrderedSum(num_shards, like, self.agreed)

    def meet(self) -> None:
        """See `Ranks.meet`. Raises RankSilent where one of them was stopped, say."""
        with peers_there():
            met = dist.barrier(group=self._calls, async_op=True)
            assert met is not None
            while not met.is_completed():
                self.pulse.require_all()
                time.sleep(_MEETING_S)
            met.wait()

    def send(self, method: str, *arguments: Any) -> Call:
        """Have the followers receive a call, which this rank carries out as they do. Rank 0 alone."""
        call = Call(self._num_calls, method, arguments)
        self._wake(call.number)
        with peers_there():
            dist.broadcast_object_list([call], src=0, group=self._control)
        return call

    def receive(self) -> Call:
        """Wait for the next call. All ranks but 0."""
        self._wake(self._num_calls)
        received: list[Any] = [None]
        with peers_there():
            dist.broadcast_object_list(received, src=0, group=self._control)
        return received[0]

    def conclude(self, call: Call, outcome: str) -> None:
        """All ranks have carried out the call. Raises DeviceLost if it did not end the same on all of them."""
        fault_point("call:before-conclude")
        outcomes = self.gathered((call.number, call.method, outcome))
        if len(set(outcomes)) > 1:
            raise DeviceLost(f"the ranks of this trainer differ after {call.method}: {list(outcomes)}")
        fault_point("call:after-conclude")

    def end(self) -> None:
        """Leave the other ranks, who leave too."""
        self.pulse.close()
        dist.destroy_process_group()

    def _wake(self, number: int) -> None:
        """Followers wait here without a limit. Rank 0 does not: it would stand still with one of them, so it goes on to
        the vote, which has a limit."""
        self._num_calls += 1
        awaited = torch.tensor([number])
        with peers_there():
            waking = dist.broadcast(awaited, src=0, group=self._calls, async_op=True)
            assert waking is not None
            if self.rank:
                waking.wait()
        with self.agreed():
            if awaited.item() != number:
                raise DeviceLost(f"this rank waits for call {number}, and rank 0 sends call {awaited.item()}")
        with peers_there():
            waking.wait()

    def _agree_on(self, error: Exception | None) -> Exception | None:
        """The error of the lowest rank that has one."""
        lost = error and lost_behind(error)
        state = _FINE if error is None else _BROKEN if lost else _REFUSED
        mine = torch.tensor([self._num_votes, state])
        votes_W2 = torch.empty(self.size, 2, dtype=torch.int64)
        try:
            dist.all_gather(list(votes_W2), mine, group=self._control)
        except RuntimeError as gone:
            raise lost or lost_peer(gone) from (error or gone)
        numbers_W, states_W = votes_W2.T.tolist()
        if len(set(numbers_W)) > 1:
            raise DeviceLost(f"the ranks of this trainer have lost one another: they are at votes {numbers_W}")
        self._num_votes += 1
        if not any(states_W):
            return None
        errors = self.gathered(_sendable(lost or error))
        if _BROKEN in states_W:
            return lost or errors[states_W.index(_BROKEN)]
        first = next(rank for rank, state in enumerate(states_W) if state != _FINE)
        return error if first == self.rank else errors[first]


def start_group(device: str, limit_s: float) -> RankGroup:
    """Join the ranks that torchrun started, each with its device. limit_s: of one collective. Raises DeviceLost where
    they do not all come."""
    with peers_there():
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
            dist.init_process_group("nccl", timeout=timedelta(seconds=limit_s), device_id=torch.device(device))
        else:
            dist.init_process_group("gloo", timeout=timedelta(seconds=limit_s))
        return RankGroup(limit_s)


def _gloo(limit: timedelta) -> dist.ProcessGroup:
    group = dist.new_group(backend="gloo", timeout=limit)
    assert isinstance(group, dist.ProcessGroup)
    return group


def _sendable(error: Exception | None) -> Exception | None:
    """As another process can read it: what ranks act upon as it is, all else by its words."""
    if error is None or isinstance(error, (HeadwayError, Signal, torch.OutOfMemoryError)):
        return error
    for kind in (OSError, ValueError, MemoryError):  # of a base that does not load, or a host that is full
        if isinstance(error, kind):
            return kind(str(error))
    return FailedElsewhere(f"{type(error).__name__}: {error}")
