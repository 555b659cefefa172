"""A pipelined loop of steps that promote nothing, whose requests are all in the log at once and arrive in any order."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from dataclasses import dataclass, field
from uuid import UUID

import numpy as np

from store.database import AsyncDatabase
from store.oplog.append import PlacedPayload
from store.oplog.client_order import append_in_order
from tests.chaos.box import Box
from tests.chaos.client import PatientClient
from tests.chaos.outcome import files_of
from wire.conversion import to_datums
from wire.datum_payload import encode_datums
from wire.payload import encode
from wire.saves import SaveRequest, Use, encode_save
from wire.trajectories import Batch, Trajectory, Turn

NUM_STEPS = 16

_ENDED = "select count(*) as num from operations where model_id = %(id)s and state not in ('held', 'queued', 'running')"
_FAILED = "select client_sequence, kind, error_message from operations where model_id = %(id)s and state <> 'done'"
_NAMED = """
    select n.name as label, c.* from checkpoint_names n join checkpoints c on c.id = n.checkpoint_id
    where n.model_id = %(id)s order by n.name
"""
_NODES = (
    "select step, metrics ->> 'grad_norm' as norm from checkpoints where model_id = %(id)s and status = 'committed'"
)


@dataclass
class Loop:
    """A model, and the requests of its client."""

    box: Box
    model_id: str = ""
    requests: list[tuple[str, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        client = PatientClient(lambda: self.box.url, self.box.headers)
        body = {"source_model_id": str(self.box.base_id), "name": f"loop-{uuid.uuid4().hex[:12]}"}
        self.model_id = client.expect("POST", "/v2/models/fork", body)["id"]
        client.close()
        draw = np.random.default_rng(0)
        for step in range(NUM_STEPS):
            self.requests += [("forward_backward", gradient(draw)) for _ in range(1 + step % 2)]
            self.requests.append(("unpromoted_step", encode({"learning_rate": 1e-3 * (1 + step)})))
            if step in (4, NUM_STEPS - 1):
                self.requests.append(("save_checkpoint", encode_save(SaveRequest(Use.TRAINING, f"{step:06d}"))))

    def send(self, half: int) -> None:
        """One half of the requests, in any order."""
        middle = len(self.requests) // 2
        numbers = range(1, middle + 1) if half == 0 else range(middle + 1, len(self.requests) + 1)
        asyncio.run(self._send([*numbers]))

    async def _send(self, numbers: list[int]) -> None:
        database = AsyncDatabase(self.box.database_url)
        random.Random(1).shuffle(numbers)
        for number in numbers:
            await asyncio.sleep(0.03)  # so that it is not over before the trainer dies
            kind, payload = self.requests[number - 1]
            async with database.connection() as connection:
                await append_in_order(
                    connection,
                    model_id=UUID(self.model_id),
                    client_sequence=number,
                    kind=kind,
                    request_digest=str(number).encode(),
                    placed=PlacedPayload(payload=payload, payload_blob=None),
                )
        await database.close()

    def num_ended(self) -> int:
        return self.box.query(_ENDED, id=self.model_id)[0].num

    def is_over(self) -> bool:
        return self.num_ended() == len(self.requests)

    def wait(self) -> None:
        deadline = time.monotonic() + 120
        while not self.is_over():
            assert time.monotonic() < deadline, self.box.logs()
            time.sleep(0.05)

    def outcome(self) -> dict[str, object]:
        assert self.box.query(_FAILED, id=self.model_id) == []
        saved = self.box.query(_NAMED, id=self.model_id)
        norms = sorted((row.step, row.norm) for row in self.box.query(_NODES, id=self.model_id))
        return {"norms": norms, **{row.label: files_of(self.box, self.model_id, row) for row in saved}}


def gradient(draw: np.random.Generator) -> bytes:
    def trajectory() -> Trajectory:
        prompt, output = (draw.integers(0, 270, size=size).astype(np.int32) for size in (5, 7))
        return Trajectory((Turn(prompt, output, draw.uniform(-6, -4, 7).astype(np.float32)),), float(draw.normal()))

    call = {"loss_fn": "importance_sampling", "loss_fn_config": {}, "num_substeps": 1}
    return encode_datums(to_datums(Batch([trajectory() for _ in range(4)])), call)
