"""Which sequences take part in the next step within the cache's budget, in turns: `sampler.admission.fair_queue`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass, field

from sampler.admission.fair_queue import FairQueue
from sampler.backends.local.kv_cache import SlotCache
from sampler.backends.local.sequence import Sequence

_HEADROOM_TOKENS = 32  # a sequence that joins without room to grow would soon push another one out
_LEAD_TOKENS = 64  # so much more a team may have been served than one that waits, before it is set back for that one
_LEAST_WIDTH = 8  # as many answers of one call as run together in any case: they share their prompt


@dataclass(slots=True)
class StepPlan:
    """Sequences to forward, those of one adapter side by side; and newcomers whose whole prompt another one of this
    step computes for them."""

    forward: list[Sequence]
    followers: list[tuple[Sequence, Sequence]] = field(default_factory=list[tuple[Sequence, Sequence]])

    def takers(self) -> list[Sequence]:
        """Everyone who gets a token: those forwarded, then the followers."""
        return [*self.forward, *(follower for follower, _ in self.followers)]

    def source_indices(self) -> list[int]:
        """For each taker, whose logits it reads, as an index into `forward`."""
        index = {id(sequence): at for at, sequence in enumerate(self.forward)}
        return [*range(len(self.forward)), *(index[id(source)] for _, source in self.followers)]


class Scheduler:
    """Holds the waiting, the running, and the parked, whose readers are behind; the running have rows 0 … n − 1 of the
    cache, in no order."""

    def __init__(self, cache: SlotCache, *, max_running: int, max_step_tokens: int) -> None:
        self._cache = cache
        self._max_running = max_running
        self._max_step_tokens = max_step_tokens
        self.waiting: FairQueue[Sequence] = FairQueue()
        self.running: list[Sequence] = []
        self.parked: list[Sequence] = []

    def has_work(self) -> bool:
        """Whether anything can be done, for anybody."""
        is_any = self.running or self.waiting
        return bool(is_any) or any(one.cancelled or not one.stream.is_behind for one in self.parked)

    def park_unread(self) -> None:
        """Take those out of the steps whose readers are behind, and let those come back that have caught up: like
        others that were set back, they are computed again from their tokens."""
        for sequence in [one for one in self.parked if not one.stream.is_behind]:
            self.parked.remove(sequence)
            self.waiting.push_front(sequence)
        for sequence in [one for one in self.running if one.stream.is_behind]:
            self._give_up_row(sequence)
            self.waiting.end(sequence)
            self.parked.append(sequence)

    def plan(self) -> StepPlan:
        """Admit whom there is room for, and say what the step computes."""
        self._make_room()
        plan = StepPlan(forward=list(self.running))
        num_step_tokens = len(self.running)
        self.waiting.width = max(_LEAST_WIDTH, len(self.running) // 4)
        while (newcomer := self.waiting.peek()) is not None:
            if num_step_tokens and num_step_tokens + len(newcomer.ids) > self._max_step_tokens:
                break
            if not self._has_or_makes_room(newcomer, plan):
                break
            num_step_tokens += self._admit(newcomer, plan)
        for sequence in plan.forward:  # what is computed again was served before
            self.waiting.serve(sequence.team, len(sequence.ids) - sequence.cached if sequence.at_prompt_end else 1)
        plan.forward.sort(key=lambda sequence: id(sequence.adapter))
        return plan

    def leave(self, sequence: Sequence) -> None:
        """Free the sequence's row, wherever it is; the last row moves into the gap."""
        if sequence in self.parked:
            self.parked.remove(sequence)
            return
        if sequence.row < 0:
            self.waiting.remove(sequence)
            return
        self.waiting.end(sequence)
        self._give_up_row(sequence)

    def _give_up_row(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        last = max(self.running, key=lambda other: other.row, default=sequence)
        if last.row > sequence.row:
            self._cache.copy_row(last.row, sequence.row, last.cached)
            last.row = sequence.row
        sequence.row = -1
        sequence.cached = 0

    def expel(self, sequence: Sequence) -> None:
        """As leave, for one whose keys and values may not be finite."""
        self._cache.wipe_row(sequence.row)
        self.leave(sequence)

    def hand_over(self, plan: StepPlan) -> None:
        """Copy to the followers what the step computed for them."""
        for follower, source in plan.followers:
            self._cache.copy_row(source.row, follower.row, source.cached)
            follower.cached = source.cached

    def sequences(self) -> Iterable[Sequence]:
        """Everyone, running first."""
        return [*self.running, *self.waiting, *self.parked]

    def _make_room(self) -> None:
        """Room for one more token of everyone that runs. What does not fit goes back to the queue's front, and is
        computed again from its tokens later: its stream of random numbers goes on."""
        while self.running and not self._cache.fits(len(self.running), self._longest()):
            self._set_back(max(reversed(self.running), key=self._excess))
        if self.running:
            self._cache.reserve(len(self.running), self._longest())

    def _excess(self, sequence: Sequence) -> tuple[float, bool]:
        """Who has most gives its row first; of equals, the latest comer."""
        is_wide = self.waiting.num_under_way(sequence) > self.waiting.width
        return self.waiting.service(sequence.team), is_wide

    def _set_back(self, sequence: Sequence) -> None:
        self._give_up_row(sequence)
        self.waiting.push_front(sequence)
        self.waiting.end(sequence)

    def _has_or_makes_room(self, newcomer: Sequence, plan: StepPlan) -> bool:
        """Whether it may join, if need be in place of others that have had more than their share."""
        if self._admits(newcomer, self.running):
            return True
        victims = self._victims(newcomer)
        for victim in victims:
            self._set_back(victim)
            plan.forward.remove(victim)
        return bool(victims)

    def _victims(self, newcomer: Sequence) -> list[Sequence]:
        """The fewest that make room for it, those first whose team was served most, and of these the latest comers;
        none if that does not help."""
        left, chosen, taken = list(self.running), list[Sequence](), Counter[Hashable]()
        latest_first = list(reversed(self.running))
        for sequence in sorted(latest_first, key=lambda s: -self.waiting.service(s.team)):
            if sequence.may_be_set_back and self._goes_before(newcomer, sequence, taken[sequence.call]):
                left.remove(sequence)
                chosen.append(sequence)
                taken[sequence.call] += 1
                if self._admits(newcomer, left):
                    return chosen
        return []

    def _goes_before(self, newcomer: Sequence, running: Sequence, num_taken: int) -> bool:
        if newcomer.team != running.team:
            lead = self.waiting.service(running.team) - self.waiting.service(newcomer.team)
            return lead > _LEAD_TOKENS
        if newcomer.call == running.call:
            return False
        is_wide = self.waiting.num_under_way(running) - num_taken > self.waiting.width
        return is_wide and self.waiting.num_under_way(newcomer) < self.waiting.width

    def _longest(self) -> int:
        return max((len(sequence.ids) for sequence in self.running), default=0)

    def _admits(self, newcomer: Sequence, running: Collection[Sequence]) -> bool:
        """Whether there is room for it beside those."""
        if not running:
            return True  # alone, any request fits: the context length is within the budget
        length = max(*(len(s.ids) for s in running), len(newcomer.ids)) + _HEADROOM_TOKENS
        return len(running) < self._max_running and self._cache.fits(len(running) + 1, length)

    def _admit(self, newcomer: Sequence, plan: StepPlan) -> int:
        """Give it a row, and the prompt of one that has it if there is one; returns how many tokens it adds."""
        self.waiting.begin(newcomer)
        newcomer.joined_at = len(newcomer.ids)
        newcomer.row = len(self.running)
        self._cache.reserve(len(self.running) + 1, max(self._longest(), len(newcomer.ids)))
        source = self._with_same_prompt(newcomer)
        self.running.append(newcomer)
        if source is not None and source.cached == 0:
            plan.followers.append((newcomer, source))
            return 0
        if source is not None:
            # All but the last token, which goes through the model for its logits.
            newcomer.cached = newcomer.num_prompt - 1
            self._cache.copy_row(source.row, newcomer.row, newcomer.cached)
        plan.forward.append(newcomer)
        return len(newcomer.ids) - newcomer.cached

    def _with_same_prompt(self, newcomer: Sequence) -> Sequence | None:
        """One that runs and has, or computes in this step, exactly this prompt."""
        if not newcomer.at_prompt_end:
            return None
        usable = (other for other in self.running if other.cached >= other.num_prompt or other.at_prompt_end)
        return next((other for other in usable if newcomer.same_prompt(other)), None)
