"""Pipelined loops of steps that promote nothing, whose requests are all in the log at once and arrive in any order,
while the trainer dies: what is saved in the end is that of a loop that nobody disturbed, to the bit."""

from __future__ import annotations

import asyncio
import random
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from uuid import UUID

import numpy as np
import pytest

from store.database import AsyncDatabase
from store.oplog.append import PlacedPayload
from store.oplog.client_order import append_in_order
from tests.chaos.box import Box
from tests.chaos.client import PatientClient
from tests.chaos.disturbance import Disturbance
from tests.chaos.faults import Fault
from tests.chaos.invariants import of_database
from tests.chaos.outcome import files_of
from wire.conversion import to_datums
from wire.datum_payload import encode_datums
from wire.payload import encode
from wire.saves import SaveRequest, Use, encode_save
from wire.trajectories import Batch, Trajectory, Turn

pytestmark = pytest.mark.chaos

NUM_STEPS = 16
DEATHS = [
    [Fault("trainer", "node:before-commit", 3, "kill"), Fault("trainer", "step:before-adamw", 2, "kill")],
    [Fault("trainer", "node:after-commit", 5, "kill"), Fault("trainer", "complete:before-commit", 2, "kill")],
    [Fault("trainer", "saved:before-commit", 1, "kill"), Fault("trainer", "publish:after-rename", 1, "kill")],
]
MORE_DEATHS = [
    [Fault("trainer", "step:after-adamw", 4, "stop"), Fault("trainer", "complete:after-commit", 3, "kill")],
    [Fault("trainer", "saved:after-commit", 2, "kill"), Fault("trainer", "node:before-commit", 1, "stop")],
]

_LEFT = "select count(*) as num from operations where model_id = %(id)s and state in ('held', 'queued', 'running')"
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


@pytest.fixture(scope="module")
def undisturbed(chaos_box: Box) -> dict[str, object]:
    loop = Loop(chaos_box)
    for half in (1, 0):
        loop.send(half)
    loop.wait()
    outcome = loop.outcome()
    assert set(outcome) == {"norms", "000004", f"{NUM_STEPS - 1:06d}"}
    return outcome


@pytest.mark.parametrize(
    "faults",
    [*DEATHS, *(pytest.param(faults, marks=pytest.mark.slow) for faults in MORE_DEATHS)],
    ids=lambda faults: ", ".join(f"{f.point} {f.action}" for f in faults),
)
def test_a_pipelined_loop_ends_in_the_same_bits_wherever_its_trainer_dies(
    chaos_box: Box, undisturbed: dict[str, object], faults: list[Fault]
):
    loop = Loop(chaos_box)
    disturbance = Disturbance(chaos_box, loop.num_ended, loop.is_over)
    for half, fault in enumerate(faults):
        sender = threading.Thread(target=loop.send, args=(half,))
        sender.start()
        assert disturbance.inflict(fault), "nobody died"
        sender.join()
    loop.wait()
    assert loop.outcome() == undisturbed
    assert of_database(chaos_box) == []


def test_a_trainer_that_dies_while_it_computes_steps_again_leaves_the_same_bits(
    chaos_box: Box, undisturbed: dict[str, object]
):
    loop = Loop(chaos_box)
    disturbance = Disturbance(chaos_box, loop.num_ended, loop.is_over)
    first = chaos_box.pid("trainer")
    with ThreadPoolExecutor() as threads:
        sent = threads.submit(loop.send, 0)
        died = threads.submit(disturbance.inflict, Fault("trainer", "node:after-commit", 5, "kill"))
        while chaos_box.pid("trainer") == first and not died.done():
            time.sleep(0.01)
        time.sleep(0.1)  # the death is noticed, and the successor still starts
        died_again = disturbance.inflict(Fault("trainer", "recompute:before-step", 1, "kill"))
        assert died.result(), "nobody died"
        assert died_again, "nobody died again"
        sent.result()
    loop.send(1)
    loop.wait()
    assert loop.outcome() == undisturbed
    assert of_database(chaos_box) == []
