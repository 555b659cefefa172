"""One death and what follows: kill or freeze, wait until things move again, measure."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.box import KINDS, Box, freeze_all
from tests.chaos.faults import ANY_TIME, HANG, PROVOKED, STALL, Fault
from tests.chaos.processes import is_alive, is_frozen, send

_FIRE_S, _PROVOKE_S = 5.0, 0.3
_RECOVER_S = 60.0
_FROZEN_S, _FROZEN_AT_MOST_S = 1.0, 8.0
_STALLED = 0.9
"""Of a lease: longer than ranks wait for one another."""
_LINGER_S = 2.0
"""How long one that was frozen may still do what it was about to do, beside its successor."""

_TAKEN_OVER = "select coalesce(max(token), 0) as token from model_leases"
_DRAWN = """
    select greatest((select max(token) from model_leases), (select max(lease_token) from operations), 0) as token
"""  # a lease that is handed back is gone
_FINISHED = "select count(*) as num from operations where lease_token > %(token)s and state in ('done', 'failed')"


@dataclass(frozen=True, slots=True)
class Recovery:
    """Seconds from the death until the next answer (of a trainer: until its successor has finished an operation),
    and until a successor held a lease. num_ranks: of the trainer before and after."""

    recovered_s: float | None
    takeover_s: float | None
    num_ranks: tuple[int, int] = (1, 1)


class _Watch:
    """Counts from its making."""

    def __init__(self, box: Box, fault: Fault, num_done: Callable[[], int]) -> None:
        self._box = box
        self._num_done = num_done
        self._is_trainer = fault.process == "trainer"
        self._started, self._done_before = time.monotonic(), num_done()
        self._token = box.query(_DRAWN)[0].token if self._is_trainer else 0
        self.recovered_s: float | None = None
        self.takeover_s: float | None = None

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started

    def look(self) -> None:
        if self._is_trainer and self.takeover_s is None and self._box.query(_TAKEN_OVER)[0].token > self._token:
            self.takeover_s = self.elapsed_s
        if self.recovered_s is None and self._moves_again():
            self.recovered_s = self.elapsed_s
        time.sleep(0.02)

    def _moves_again(self) -> bool:
        if self._is_trainer:
            return bool(self._box.query(_FINISHED, token=self._token)[0].num)
        return self._num_done() > self._done_before


class Disturbance:
    """`num_done` counts the answers that clients had so far; `is_over` says that no more will come."""

    def __init__(self, box: Box, num_done: Callable[[], int], is_over: Callable[[], bool]) -> None:
        self._box = box
        self._num_done = num_done
        self._is_over = is_over
        self._num_ranks: dict[int, int] = {}

    def inflict(self, fault: Fault) -> Recovery | None:
        """None when the point was not reached before the programs ended."""
        victim = self._moment(fault) if fault.point == ANY_TIME else self._await_point(fault)
        if victim is None:
            return None
        watch = _Watch(self._box, fault, self._num_done)
        agent = self._box.pid(fault.process) if fault.process == "trainer" else victim
        if fault.action in (HANG, STALL):
            send(victim, signal.SIGSTOP)
        if fault.action == STALL:
            time.sleep(_STALLED * self._box.lease_ttl_s)
            send(victim, signal.SIGCONT)
        if fault.action == "stop":
            self._freeze_for_a_while(fault, victim, watch)
        while watch.recovered_s is None and watch.elapsed_s < _RECOVER_S and not self._is_over():
            watch.look()
        if fault.action == "stop" and fault.process != "postgres":
            time.sleep(_LINGER_S)
            for pid in (victim, agent):
                send(pid, signal.SIGKILL)
        num_ranks = (self._num_ranks.get(victim, 1), self._box.num_ranks)
        return Recovery(watch.recovered_s, watch.takeover_s, num_ranks)

    def _freeze_for_a_while(self, fault: Fault, victim: int, watch: _Watch) -> None:
        """Of a trainer: until its lease has run out and its successor has done something. A plane has a successor."""
        is_plane, is_trainer = fault.process != "postgres", fault.process == "trainer"
        frozen = [victim] if is_plane else freeze_all(victim)
        if is_plane:
            send(victim, signal.SIGSTOP)
            self._box.spawn(fault.process)
            at_least_s = self._box.lease_ttl_s * 1.1 if is_trainer else _FROZEN_S
            while watch.elapsed_s < at_least_s or (is_trainer and self._waits_for_successor(watch)):
                watch.look()
        else:
            time.sleep(_FROZEN_S)
        for pid in frozen:
            send(pid, signal.SIGCONT)

    def _waits_for_successor(self, watch: _Watch) -> bool:
        return watch.recovered_s is None and watch.elapsed_s < _FROZEN_AT_MOST_S and not self._is_over()

    def _moment(self, fault: Fault) -> int | None:
        time.sleep(fault.nth / 100)
        if self._is_over():
            return None
        victims = self._victims(fault)
        if not victims:
            return None
        if fault.action == "kill":
            for victim in victims:
                send(victim, signal.SIGKILL)
        return victims[0]

    def _victims(self, fault: Fault) -> list[int]:
        if fault.process == "machine":
            return [*(self._box.pid(kind) for kind in KINDS), *self._box.backends()]
        if fault.rank is not None:
            wait_for_ranks(self._box)
            return self._candidates(fault)[fault.rank : fault.rank + 1]
        if fault.process == "backend" and (backends := self._box.backends()):
            return [random.Random(fault.nth).choice(backends)]
        return [self._box.pid("postgres" if fault.process == "backend" else fault.process)]

    def _await_point(self, fault: Fault) -> int | None:
        """The process that obeyed: it is dead by now, or frozen."""
        plan = self._box.plan(fault.process)
        fired, draft = plan.with_name(f"{plan.name}.fired"), plan.with_name(f"{plan.name}.draft")
        fired.unlink(missing_ok=True)
        draft.write_text(fault.spec)
        victims, asked_at, provoked = self._candidates(fault), time.monotonic(), False
        draft.rename(plan)
        while not fired.exists():
            waited_s = time.monotonic() - asked_at
            if fault.point.startswith(PROVOKED) and waited_s > _PROVOKE_S and not provoked:
                provoked = True
                send(victims[-1], signal.SIGKILL)
            if self._is_over() or waited_s > _FIRE_S * (3 if provoked else 1):
                plan.unlink(missing_ok=True)
                if not fired.exists():
                    return None
            victims += [pid for pid in self._candidates(fault) if pid not in victims]
            time.sleep(0.005)
        return _who_obeyed(fault, victims)

    def _candidates(self, fault: Fault) -> list[int]:
        """Who may obey now."""
        if fault.process != "trainer":
            return [self._box.pid(fault.process)]
        ranks = self._box.ranks()
        self._num_ranks |= dict.fromkeys(ranks, self._box.num_ranks)
        return ranks


def wait_for_ranks(box: Box) -> list[int]:
    """All of the trainer, by rank; none where it has not started them for long."""
    deadline = time.monotonic() + _FIRE_S
    while len(ranks := box.ranks()) < box.num_ranks:
        if time.monotonic() > deadline:
            return []
        time.sleep(0.01)
    return ranks


def _who_obeyed(fault: Fault, candidates: list[int]) -> int:
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        for pid in reversed(candidates):
            if is_frozen(pid) if fault.action != "kill" else not is_alive(pid):
                return pid
        time.sleep(0.005)
    raise AssertionError(f"{fault} was claimed, but nobody is dead or frozen")
