"""What sampling uses of a server process."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from server.process.shared_lookups import SharedLookups
from server.sampling.admission import SamplingKeys
from server.sampling.dispatch import Dispatch
from server.sampling.limits import TeamLimits
from server.sampling.recorder import Recorder
from server.sampling.sampler_client import SamplerClient
from store.database import AsyncDatabase


@dataclass(frozen=True, slots=True)
class Sampling:
    """Where keys and models are looked up, and answers sampled and recorded. `wants`: has samplers load a checkpoint
    and hold it for a while."""

    database: AsyncDatabase
    keys: SamplingKeys
    wants: SharedLookups[UUID, None]
    client: SamplerClient
    dispatch: Dispatch
    limits: TeamLimits
    recorder: Recorder
