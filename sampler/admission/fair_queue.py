"""Fair queue: of the teams that wait, the one that was served least; within it, the call that came first, but
wide calls, which have many answers under way already, after the others.

Service is counted in tokens, as in the virtual token counter (Sheng et al., OSDI 2024, arXiv:2401.00588): a team that
comes back gets the counter of the least served of those present, so that absence earns no credit. Calls
(requests to the gateway, each with one or many answers) are not taken in turns by themselves: answers to one prompt are
cheapest together.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Queued(Protocol):
    """`team` and `call` say whose it is. A call of its own: an object of its own."""

    @property
    def team(self) -> str: ...

    @property
    def call(self) -> Hashable: ...


Q = TypeVar("Q", bound=Queued)


@dataclass(slots=True)
class _Team(Generic[Q]):
    """`waiting` in the order in which calls came; a call is in it only while something of it waits."""

    service: float
    waiting: dict[Hashable, deque[Q]] = field(default_factory=dict[Hashable, "deque[Q]"])
    under_way: Counter[Hashable] = field(default_factory=Counter[Hashable])


class FairQueue(Generic[Q]):
    """What waits, in order of turns; and how much of each call is under way, as `begin` and `end` say. A call is wide
    with `width` of it under way."""

    def __init__(self, width: int = 8) -> None:
        self.width = width
        self._teams: dict[str, _Team[Q]] = {}
        self._num_waiting = 0

    def __len__(self) -> int:
        return self._num_waiting

    def __iter__(self) -> Iterator[Q]:
        return (item for team in self._teams.values() for calls in team.waiting.values() for item in calls)

    def push(self, item: Q) -> None:
        """Behind what its call has waiting."""
        self._team(item.team).waiting.setdefault(item.call, deque()).append(item)
        self._num_waiting += 1

    def push_front(self, item: Q) -> None:
        """Before all that its team has waiting: it had its turn already."""
        team = self._team(item.team)
        own = team.waiting.pop(item.call, deque())
        own.appendleft(item)
        team.waiting = {item.call: own, **team.waiting}
        self._num_waiting += 1

    def remove(self, item: Q) -> None:
        """Of one that waits."""
        team = self._teams[item.team]
        team.waiting[item.call].remove(item)
        self._num_waiting -= 1
        if not team.waiting[item.call]:
            del team.waiting[item.call]
        self._drop_if_idle(item.team)

    def peek(self, may: Callable[[str], bool] = lambda _: True) -> Q | None:
        """Whose turn it is, among the teams that `may` have one."""
        waiting = [team for name, team in self._teams.items() if team.waiting and may(name)]
        if not waiting:
            return None
        team = min(waiting, key=lambda team: team.service)
        return team.waiting[self._next_call(team)][0]

    def begin(self, item: Q) -> None:
        """It waits no more: its turn has come."""
        self._teams[item.team].under_way[item.call] += 1
        self.remove(item)

    def end(self, item: Q) -> None:
        """Of one that was begun: it is not under way any more."""
        under_way = self._teams[item.team].under_way
        under_way[item.call] -= 1
        if not under_way[item.call]:
            del under_way[item.call]
        self._drop_if_idle(item.team)

    def serve(self, team: str, num_tokens: int) -> None:
        """So much was done for it."""
        if team in self._teams:
            self._teams[team].service += num_tokens

    def service(self, team: str) -> float:
        """Tokens, from a beginning that all present teams share."""
        return self._teams[team].service

    def num_under_way(self, item: Q) -> int:
        """Of its call."""
        return self._teams[item.team].under_way[item.call]

    def num_of_team(self, team: str) -> int:
        """How much of a team is under way."""
        return self._teams[team].under_way.total() if team in self._teams else 0

    @property
    def num_teams(self) -> int:
        """Of which anything waits or is under way."""
        return len(self._teams)

    def _next_call(self, team: _Team[Q]) -> Hashable:
        narrow = (call for call in team.waiting if team.under_way.get(call, 0) < self.width)
        found = next(narrow, None)
        return found if found is not None else min(team.waiting, key=lambda call: team.under_way[call])

    def _team(self, name: str) -> _Team[Q]:
        if name not in self._teams:
            least = min((team.service for team in self._teams.values()), default=0.0)
            self._teams[name] = _Team(least)
        return self._teams[name]

    def _drop_if_idle(self, name: str) -> None:
        team = self._teams[name]
        if not team.waiting and not team.under_way:
            del self._teams[name]
