"""Which models' sessions are on the device, and where the others wait.

When the device's budget is passed, the session that was not used for longest leaves: to host memory, and past that
budget to files. On a CPU the device is host memory, so the engine gives the host no budget and sessions go to files
at once. Buffers come back bit for bit as they were.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from uuid import UUID

import structlog
import torch
from safetensors import SafetensorError

from trainer.engine.session import Session
from trainer.engine.spill import SpilledSession, SpillFolder
from wire.errors import NotFound

log = structlog.get_logger(__name__)


class ResidentSessions:
    """Sessions by model, the last one used always on the device, however small the budgets.

    max_resident_bytes: of sessions on the device, None for no limit. max_host_bytes: of sessions in host memory.
    release: called with a session that leaves the device, to let go of its buffers.
    """

    def __init__(
        self,
        device: torch.device,
        max_resident_bytes: int | None,
        max_host_bytes: int,
        spill: SpillFolder,
        release: Callable[[Session], None],
    ) -> None:
        self._device = device
        self._max_resident_bytes = max_resident_bytes
        self._max_host_bytes = max_host_bytes
        self._spill = spill
        self._release = release
        self._resident: OrderedDict[UUID, Session] = OrderedDict()
        self._on_host: OrderedDict[UUID, Session] = OrderedDict()
        self._on_disk: dict[UUID, SpilledSession] = {}

    def put(self, model: UUID, session: Session) -> None:
        """Hold this session, which is on the device already, in place of what was held."""
        self.remove(model)
        self._make_room(session.num_bytes)
        self._resident[model] = session

    def get(self, model: UUID) -> Session:
        """The model's session, on the device.

        Raises NotFound, or SpillLost for one whose file was damaged, and then holds it no more.
        """
        if model not in self._resident:
            self._resident[model] = self._bring_back(model)
        self._resident.move_to_end(model)
        return self._resident[model]

    def remove(self, model: UUID) -> None:
        """Forget a model, and delete its file if it has one. Unknown models are fine."""
        if session := self._resident.pop(model, None):
            self._release(session)
        self._on_host.pop(model, None)
        if spilled := self._on_disk.pop(model, None):
            self._spill.remove(spilled)

    def places(self) -> dict[str, tuple[int, int]]:
        """Sessions and their bytes by where they are. May be called from any thread."""
        kept = {"device": self._resident, "host": self._on_host, "disk": self._on_disk}
        sizes = {place: [session.num_bytes for session in list(held.values())] for place, held in kept.items()}
        return {place: (len(each), sum(each)) for place, each in sizes.items()}

    def _bring_back(self, model: UUID) -> Session:
        if parked := self._on_host.pop(model, None):
            self._make_room(parked.num_bytes)
            return parked.on(self._device)
        if spilled := self._on_disk.pop(model, None):
            self._make_room(spilled.num_bytes)
            session = self._spill.take(spilled, self._device)
            log.info("session_restored", model_id=str(model), num_bytes=session.num_bytes)
            return session
        raise NotFound(f"model {model} is not open in this trainer")

    def _make_room(self, num_bytes: int) -> None:
        limit = self._max_resident_bytes
        while limit is not None and self._resident and _num_bytes(self._resident) + num_bytes > limit:
            model, session = self._resident.popitem(last=False)
            self._release(session)
            self._park(model, session)

    def _park(self, model: UUID, session: Session) -> None:
        if session.num_bytes > self._max_host_bytes:
            return self._to_disk(model, session)
        while _num_bytes(self._on_host) + session.num_bytes > self._max_host_bytes:
            self._to_disk(*self._on_host.popitem(last=False))
        self._on_host[model] = session.on_host()
        return None

    def _to_disk(self, model: UUID, session: Session) -> None:
        try:
            self._on_disk[model] = self._spill.write(session)
            log.info("session_spilled", model_id=str(model), num_bytes=session.num_bytes)
        except (OSError, SafetensorError) as error:
            # Whoever asks for it next opens it again and replays; the model that needs the memory must not fail for it.
            log.warning("session_dropped", model_id=str(model), num_bytes=session.num_bytes, reason=str(error))


def _num_bytes(sessions: Mapping[UUID, Session]) -> int:
    return sum(session.num_bytes for session in sessions.values())
