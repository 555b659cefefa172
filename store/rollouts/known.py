"""What a process that records completions keeps in memory of their rollouts, so that a turn need not ask for those
before it.

It may be out of date: others record too, and rollouts are deleted. Not to know of a sample costs the bytes that a new
one could have shared with it; one that is gone is noticed when another is to share with it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from uuid import UUID

from store.rollouts.samples import KnownSample

Trace = tuple[UUID, UUID]
"""Team and id."""

_MOST_SAMPLES = 65_536
"""About 25 MB."""


class KnownSamples:
    """Of the traces that were recorded last, so many samples at most. Belongs to one event loop."""

    def __init__(self, most_samples: int = _MOST_SAMPLES) -> None:
        self._of_traces: OrderedDict[Trace, Sequence[KnownSample]] = OrderedDict()
        self._most_samples = most_samples
        self._num_samples = 0

    def of(self, trace: Trace) -> Sequence[KnownSample] | None:
        """In the order in which they were recorded. None: it has to be asked."""
        return self._of_traces.get(trace)

    def remember(self, trace: Trace, samples: Sequence[KnownSample]) -> None:
        """These are all that are on record."""
        self.forget(trace)
        self._of_traces[trace] = samples
        self._num_samples += len(samples)
        while self._num_samples > self._most_samples:
            self._num_samples -= len(self._of_traces.popitem(last=False)[1])

    def forget(self, trace: Trace) -> None:
        """Something else is on record."""
        self._num_samples -= len(self._of_traces.pop(trace, ()))
