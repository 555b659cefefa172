"""The plan of a pass is in its operation's row, and whoever replays the pass follows it (docs/decisions/0041)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sqlalchemy import update

from store.database import AsyncDatabase, Database
from store.oplog import work
from store.oplog.append import Appended, append_operation
from store.tables import OperationRow
from tests.unit.conftest import World
from tests.unit.planes.test_worker import Trainer, expire_leases
from tests.unit.trainer.tiny import mixed_batch, session, tiny_model
from trainer.engine import engine
from trainer.engine.base_model import BaseModel
from trainer.engine.engine import EngineSettings, TrainingEngine
from wire.conversion import to_datums
from wire.datum_payload import encode_datums
from wire.errors import Interrupted
from wire.payload import decode, encode
from wire.plans import PEFT_LORA, PlanSettings, StepPlan, decode_plan, decode_step_plan

SMALL, LARGE = PlanSettings(max_tokens_per_pass=30, threads=1), PlanSettings(max_tokens_per_pass=4096, threads=2)
LOSS = {"loss_fn": "importance_sampling", "loss_fn_config": {}, "num_substeps": 1}


class ComputingTrainer(Trainer):
    """With the real engine, by settings that change from one process to the next."""

    settings = SMALL

    def make_engine(self) -> TrainingEngine:
        self.threads: list[int] = []
        self.interrupted = False
        base = BaseModel(tiny_model())
        settings = EngineSettings(self.settings.max_tokens_per_pass, threads=self.settings.threads, canary=False)
        return TrainingEngine(base, settings, before_micro_batch=self._before_micro_batch)

    def _before_micro_batch(self) -> None:
        self.threads.append(torch.get_num_threads())
        if self.interrupted:
            raise Interrupted("told to stop")

    def succeed(self, settings: PlanSettings) -> None:
        """This trainer dies, and one with other settings takes its place."""
        expire_leases(self.database)
        self.settings = settings
        ids = self.world.trainer_id, self.world.other_trainer_id
        self.restart(ids[self.worker._settings.trainer_id == ids[0]])

    async def pass_of_batch(self, seed: int) -> Appended:
        return await self.ask("forward_backward", encode_datums(to_datums(mixed_batch(seed)), LOSS))

    async def forward(self, seed: int) -> Appended:
        return await self.ask("forward", encode_datums(to_datums(mixed_batch(seed)), {}))

    async def backward_of(self, forward: Appended) -> Appended:
        header, arrays = decode(self.now(forward).result or b"")
        payload = encode({"metrics": {}, "lengths": header["lengths"]}, {"weights": -arrays["logprobs"]})
        values = {"kind": "backward", "payload": payload, "forward_id": forward.id, "idempotency_key": "b"}
        async with self.async_database.connection() as connection:
            return await append_operation(connection, model_id=self.world.model_id, **values)

    def gradient(self) -> torch.Tensor:
        return session(self.engine, self.world.model_id).gradient.clone()

    def num_micro_batches(self, operation: Appended) -> int:
        return len(decode_plan(self.now(operation).plan or b"").micro_batch_sizes_M)

    def change(self, **values) -> None:
        with self.database.session() as session:
            session.execute(update(OperationRow).values(**values))


@pytest.fixture
def trainer(database: Database, async_database: AsyncDatabase, world: World, tmp_path: Path) -> Iterator[Trainer]:
    threads = torch.get_num_threads()
    yield ComputingTrainer(database, async_database, world, tmp_path)
    torch.set_num_threads(threads)


async def replayed_by(trainer: ComputingTrainer, settings: PlanSettings) -> torch.Tensor:
    """What another trainer accumulates of what was acknowledged; it is asked for something that adds nothing."""
    trainer.succeed(settings)
    await trainer.forward(seed=9)
    trainer.work()
    return trainer.gradient()


async def test_a_trainer_with_other_settings_replays_to_the_same_bits(trainer: ComputingTrainer):
    passes = [await trainer.pass_of_batch(seed) for seed in (0, 1)]
    forward = await trainer.forward(seed=2)
    trainer.work()
    backward = await trainer.backward_of(forward)
    trainer.work()
    gradient, num_micro_batches = trainer.gradient(), [trainer.num_micro_batches(one) for one in (*passes, backward)]
    assert min(num_micro_batches) > 1
    assert gradient.any()

    assert torch.equal(await replayed_by(trainer, LARGE), gradient)
    assert trainer.threads == [1] * sum(num_micro_batches) + [2], "what is not replayed is planned by the trainer's own"
    assert torch.equal(await replayed_by(trainer, SMALL), gradient)


async def test_without_the_record_it_would_end_in_other_bits(trainer: ComputingTrainer):
    await trainer.pass_of_batch(0)
    trainer.work()
    gradient = trainer.gradient()
    trainer.change(plan=None, summary={"metrics": {}})
    assert not torch.equal(await replayed_by(trainer, LARGE), gradient)
    assert trainer.threads == [2, 2]


async def test_passes_of_an_earlier_version_are_replayed_by_the_settings_in_their_metrics(
    trainer: ComputingTrainer, monkeypatch: pytest.MonkeyPatch
):
    await trainer.pass_of_batch(0)
    with monkeypatch.context() as earlier:
        earlier.setattr(engine, "FUSED_LORA", PEFT_LORA)
        trainer.work()
    gradient = trainer.gradient()
    trainer.change(plan=None)
    assert torch.equal(await replayed_by(trainer, LARGE), gradient)


async def test_a_backward_follows_the_plan_of_its_forward(trainer: ComputingTrainer):
    forward = await trainer.forward(seed=0)
    trainer.work()
    trainer.succeed(LARGE)
    backward = await trainer.backward_of(forward)
    trainer.work()
    assert trainer.now(backward).state == "done"
    assert trainer.now(backward).plan == trainer.now(forward).plan
    assert trainer.num_micro_batches(forward) > 1


async def test_an_attempt_that_did_not_finish_leaves_no_plan(trainer: ComputingTrainer):
    """Nobody has seen its bits, and a smaller budget may be what the next attempt needs."""
    passed = await trainer.pass_of_batch(0)
    trainer.interrupted = True
    trainer.worker.work_once()
    assert (trainer.now(passed).state, trainer.now(passed).plan) == ("running", None)
    trainer.succeed(LARGE)
    trainer.work()
    assert (trainer.now(passed).state, trainer.num_micro_batches(passed)) == ("done", 1)


async def test_a_step_leaves_what_its_bits_depended_on(trainer: ComputingTrainer):
    await trainer.pass_of_batch(0)
    step = await trainer.step()
    trainer.work()
    assert decode_step_plan(trainer.now(step).plan or b"") == StepPlan(SMALL.threads, None)


async def test_the_plan_is_written_with_the_result(trainer: ComputingTrainer, monkeypatch: pytest.MonkeyPatch):
    """In one statement: what is acknowledged can be replayed, whenever its trainer dies."""
    passed, written = await trainer.pass_of_batch(0), []
    finish = work._finish

    def note(connection, lease, operation, **values) -> None:
        assert trainer.now(passed).plan is None
        written.append(values["plan"])
        finish(connection, lease, operation, **values)

    monkeypatch.setattr(work, "_finish", note)
    trainer.work()
    assert written == [trainer.now(passed).plan]
    plan = decode_plan(written[0])
    assert plan.settings == SMALL
    assert np.array_equal(np.sort(plan.order_D), np.arange(8))
