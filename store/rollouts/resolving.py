"""What a recorded rollout is as a trajectory: which of its samples are the agent's turns, in which order.

Telemetry decides: the samples of the agent's steps, by ascending step. It is what the client would send inline. The
gateway's record fills in where it is certain: a sample that a reported one goes on from was a turn, though the upload
of its step got lost. Only where telemetry has no tokens at all does the gateway's record stand for the rollout. It
may hold answers that were lost on the way and asked for again: of several answers to one prompt the one counts that
the rollout went on from, or else the last. Calls of others under the same trace id cannot be distinguished there,
unless another vendor's model answered them: such a judge is no turn, and only where nothing else answered are its calls
the rollout.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from store.blob_stores import BlobStore
from store.database import AsyncDatabase
from store.rollouts.comments import Comment
from store.rollouts.reading import RecordedSample, Rollout, read_rollouts
from store.rollouts.traces import TraceFacts
from wire.trajectories import Trajectory


@dataclass(frozen=True, slots=True)
class Resolved:
    """A rollout as a trajectory. `samples`: its turns in order; none where no tokens are on record.

    `is_reported`: telemetry has the turns; otherwise they are the gateway's record. The reward is the trace's. Samples
    of another vendor's model have no tokens; then all of them are such. `comments`: where they were asked for.
    """

    trace: TraceFacts
    samples: tuple[RecordedSample, ...]
    is_reported: bool
    comments: tuple[Comment, ...] = ()

    def trajectory(self) -> Trajectory:
        """For the trainer. The trace must have a reward and samples."""
        assert self.trace.reward is not None
        assert self.samples
        return Trajectory(tuple(sample.turn for sample in self.samples), self.trace.reward, self.trace.id.hex)


async def resolve(
    database: AsyncDatabase,
    blobs: BlobStore,
    team_id: UUID,
    trace_ids: Iterable[UUID],
    *,
    conversations: bool = False,
) -> dict[UUID, Resolved]:
    """The team's traces with these ids, as far as there are any, as trajectories. Three statements for all of them."""
    found = await read_rollouts(database, blobs, team_id, trace_ids, conversations=conversations)
    return {trace_id: resolve_rollout(rollout) for trace_id, rollout in found.items()}


def resolve_rollout(rollout: Rollout) -> Resolved:
    """A rollout that was read already."""
    if rollout.reported:
        return Resolved(rollout.trace, tuple(_filled(rollout.reported, rollout.others)), is_reported=True)
    of_policy = [sample for sample in rollout.others if not sample.is_of_upstream]
    samples = _one_answer_each(of_policy) if of_policy else rollout.others
    return Resolved(rollout.trace, tuple(samples), is_reported=False)


def _filled(reported: Sequence[RecordedSample], others: Sequence[RecordedSample]) -> Iterable[RecordedSample]:
    """The reported samples, each behind those of the others that it goes on from."""
    left = sorted((one for one in others if not one.is_of_upstream), key=lambda sample: len(sample.turn.prompt_ids))
    for sample in reported:
        before = [other for other in left if sample.turn.continues(other.turn)]
        left = [other for other in left if not sample.turn.continues(other.turn)]
        yield from before
        yield sample


def _one_answer_each(samples: Sequence[RecordedSample]) -> Iterable[RecordedSample]:
    """Of the answers to one prompt one, in order of time."""
    answers = dict[bytes, list[int]]()
    for index, sample in enumerate(samples):
        answers.setdefault(sample.turn.prompt.key, []).append(index)
    chosen = {_chosen(samples, indexes) for indexes in answers.values()}
    return (sample for index, sample in enumerate(samples) if index in chosen)


def _chosen(samples: Sequence[RecordedSample], indexes: list[int]) -> int:
    for index in indexes if len(indexes) > 1 else []:
        if any(later.turn.continues(samples[index].turn) for later in samples):
            return index
    return indexes[-1]
