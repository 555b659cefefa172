"""What a save of the op log is asked for, as its payload says it: which use the files are for, and under which name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from uuid import UUID

from wire.payload import decode, encode


class Use(StrEnum):
    """What the files of a node are wanted for.

    TRAINING, SAMPLER, EXTERNAL: the node gets a name, under which it is loaded for training, sampled, or fetched.
    SNAPSHOT: a sampling session of exactly these weights. INFLIGHT: one whose weights each later save of the kind
    replaces. FILES: none of these; the node is to have files.
    """

    TRAINING = "training"
    SAMPLER = "sampler"
    EXTERNAL = "external"
    SNAPSHOT = "snapshot"
    INFLIGHT = "inflight"
    FILES = "files"

    @property
    def is_named(self) -> bool:
        """Whether the node gets a name for it."""
        return self in (Use.TRAINING, Use.SAMPLER, Use.EXTERNAL)

    @property
    def is_sampled(self) -> bool:
        """Whether samplers shall hold the node."""
        return self in (Use.SAMPLER, Use.SNAPSHOT, Use.INFLIGHT)


@dataclass(frozen=True, slots=True)
class SamplingSessionKey:
    """A sampling session as its client numbers it: within a session of the client."""

    session_id: str
    index: int

    @property
    def id(self) -> str:
        """By which it is known."""
        return f"{self.session_id}:sample:{self.index}"


@dataclass(frozen=True, slots=True)
class SaveRequest:
    """Write the files of the head, or of another node, for one use.

    name: for the uses that have one. overwrite: an equal name of the same use is moved to this node; otherwise it is an
    error. sampling_session: for the uses that make one. checkpoint_id: the node, None for the head as it then is.
    """

    use: Use
    name: str | None = None
    ttl_seconds: float | None = None
    overwrite: bool = False
    user_metadata: Mapping[str, str] | None = None
    sampling_session: SamplingSessionKey | None = None
    checkpoint_id: UUID | None = None


def encode_save(request: SaveRequest) -> bytes:
    """As an operation's row keeps it."""
    header = {name: value for name, value in asdict(request).items() if value is not None}
    if request.checkpoint_id is not None:
        header["checkpoint_id"] = str(request.checkpoint_id)
    return encode(header)


def decode_save(data: bytes) -> SaveRequest:
    """The inverse of `encode_save`."""
    header, _ = decode(data)
    session, checkpoint_id = header.pop("sampling_session", None), header.pop("checkpoint_id", None)
    return SaveRequest(
        use=Use(header.pop("use")),
        sampling_session=SamplingSessionKey(**session) if session else None,
        checkpoint_id=UUID(checkpoint_id) if checkpoint_id else None,
        **header,
    )
