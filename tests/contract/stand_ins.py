"""A trainer with made-up results, for tests of the wire alone, and the rows of planes. The real ones are tested end to
end; the sampler is `tests.ports.scripted_backend` behind the real HTTP app."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from datetime import timedelta
from typing import Any

import numpy as np
from sqlalchemy import func, select, text, update
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from store.database import AsyncDatabase
from store.notify import OPERATION_DONE, OPERATION_QUEUED, AsyncListener, notify_async
from store.oplog.conditions import PENDING_GRADIENT, UNACKNOWLEDGED
from store.repeating import RepeatedTask, Rhythm
from store.tables import (
    CheckpointNameRow,
    CheckpointRow,
    ModelRow,
    OperationRow,
    SamplerAdapterRow,
    SamplerRow,
    SamplingSessionRow,
    TrainerRow,
)
from wire.adapter_names import base_adapter_name
from wire.datum_payload import decode_datums
from wire.datums import Datum
from wire.payload import decode, encode
from wire.saves import decode_save

LOSSES: dict[str, dict[str, float]] = {
    "cross_entropy": {},
    "importance_sampling": {},
    "ppo": {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2, "epsilon": 0.2},
    "cispo": {"clip_low_threshold": 0.0, "clip_high_threshold": 4.0},
    "dro": {"beta": 0.05},
}


async def register_trainer(database: AsyncDatabase, base_id: uuid.UUID) -> None:
    async with database.session() as session:
        session.add(TrainerRow(base_id=base_id, host="here", pid=1, losses=LOSSES))


_LEAVE_OUT = text(f"""
    update operations o set state = 'superseded', error_code = 'unacknowledged', error_message = 'left out'
    where o.model_id = :model_id and {PENDING_GRADIENT} and {UNACKNOWLEDGED}
""")


_LOOK_EVERY_S = 0.2
"""For what was queued while it was paused, and for rows that a test wrote itself."""


class StandInTrainer:
    """Answers whatever is queued with results of the right shape."""

    def __init__(self, database: AsyncDatabase) -> None:
        self._database = database
        self._listener = AsyncListener(database.url.render_as_string(hide_password=False), [OPERATION_QUEUED])
        self.paused = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> StandInTrainer:
        await self._listener.start()
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self._listener.close()

    async def _run(self) -> None:
        with self._listener.subscribe(OPERATION_QUEUED, None) as queued:
            while True:
                await queued.wait(_LOOK_EVERY_S)
                if not self.paused:
                    await self._answer_all()

    async def _answer_all(self) -> None:
        async with self._database.session() as session:
            queued = select(OperationRow).where(OperationRow.state == "queued").order_by(OperationRow.sequence)
            for operation in await session.scalars(queued):
                await self._answer(session, operation)

    async def _answer(self, session: Any, operation: OperationRow) -> None:
        model = await session.get_one(ModelRow, operation.model_id)
        assert operation.payload is not None
        result = await getattr(self, f"_{operation.kind}")(session, operation, model)
        if result is None:
            operation.state, operation.error_code = "failed", "nothing_accumulated"
            operation.error_message = "no accumulated gradients; call forward_backward first"
        else:
            operation.state, operation.result = "done", result
        operation.finished_at = func.clock_timestamp()
        await notify_async(session, OPERATION_DONE, operation.id.hex)

    async def _forward_backward(self, session: Any, operation: OperationRow, model: ModelRow) -> bytes:
        datums, call = decode_datums(operation.payload or b"")
        assert set(call) - {"metrics", "returns_logprobs"} == {"loss_fn", "loss_fn_config", "num_substeps"}
        metrics = {"loss:sum": -0.5, "kl:mean": float("nan"), **call.get("metrics", {})}
        if call.get("returns_logprobs"):
            return _with_logprobs(datums, metrics)
        return encode({"metrics": metrics, "num_datums": len(datums)})

    async def _forward(self, session: Any, operation: OperationRow, model: ModelRow) -> bytes:
        datums, call = decode_datums(operation.payload or b"")
        if call.get("returns_logprobs"):
            return _with_logprobs(datums, {"loss:sum": -0.5})
        operation.head_version = model.head_version
        lengths = [datum.num_tokens for datum in datums]
        ones = np.ones(sum(lengths), np.float32)
        arrays = {"logprobs": -ones, "sampling_logprobs": -ones, "mask": ones}
        arrays["rewards"] = np.array([datum.origin.reward for datum in datums], np.float64)
        return encode({"traj_idx": [datum.origin.trajectory_index for datum in datums], "lengths": lengths}, arrays)

    async def _backward(self, session: Any, operation: OperationRow, model: ModelRow) -> bytes:
        header, arrays = decode(operation.payload or b"")
        assert len(arrays["weights"]) == sum(header["lengths"])
        used = update(OperationRow).where(OperationRow.id == operation.forward_id)
        await session.execute(used.values(consumed_by_id=operation.id))
        return encode({"metrics": header["metrics"], "num_datums": len(header["lengths"])})

    async def _optim_step(self, session: Any, operation: OperationRow, model: ModelRow) -> bytes | None:
        left_out = await session.execute(_LEAVE_OUT, {"model_id": model.id})
        unconsumed = select(OperationRow).where(
            OperationRow.model_id == model.id,
            OperationRow.kind.in_(("forward_backward", "backward")),
            OperationRow.state == "done",
            OperationRow.consumed_by_id.is_(None),
        )
        pending = list(await session.scalars(unconsumed))
        if not pending:
            return None
        assert all(gradient.answered_at for gradient in pending)
        for gradient in pending:
            gradient.consumed_by_id = operation.id
        checkpoint = await add_checkpoint(session, model)
        model.head_checkpoint_id = checkpoint.id
        model.head_version += 1
        paths = {"sampler_path": "somewhere/adapter", "state_path": "somewhere/state"}
        more = {"passes_left_out": left_out.rowcount} if left_out.rowcount else {}
        return encode({"step": checkpoint.step, "checkpoint_id": str(checkpoint.id), **paths, **more})

    async def _unpromoted_step(self, session: Any, operation: OperationRow, model: ModelRow) -> bytes:
        """It counts the gradients before it, and leaves the served weights as they are."""
        unconsumed = update(OperationRow).where(
            OperationRow.model_id == model.id,
            OperationRow.kind.in_(("forward_backward", "backward")),
            OperationRow.state == "done",
            OperationRow.consumed_by_id.is_(None),
        )
        consumed = (await session.execute(unconsumed.values(consumed_by_id=operation.id))).rowcount
        answer: dict[str, Any] = {"metrics": {"num_gradients": float(consumed)}}
        if consumed:
            answer |= await self._unpromoted_node(session, operation, model)
        return encode(answer)

    async def _unpromoted_node(self, session: Any, operation: OperationRow, model: ModelRow) -> dict[str, Any]:
        checkpoint = await add_checkpoint(session, model)
        checkpoint.operation_id, operation.plan = operation.id, b"by no plan"
        model.head_checkpoint_id = checkpoint.id
        model.head_version += 1
        model.serves_head = False
        answer = {"step": checkpoint.step, "checkpoint_id": str(checkpoint.id)}
        return {**answer, "metrics": {"num_gradients": 1.0, "grad_norm": 0.5}}

    async def _save_checkpoint(self, session: Any, operation: OperationRow, model: ModelRow) -> bytes:
        request = decode_save(operation.payload or b"")
        if model.head_checkpoint_id is None:
            model.head_checkpoint_id = (await add_checkpoint(session, model)).id
            model.head_version += 1
        node = await session.get_one(CheckpointRow, request.checkpoint_id or model.head_checkpoint_id)
        node.is_saved = True
        if request.use.is_named:
            named = CheckpointNameRow(
                model_id=model.id, kind=request.use.value, name=request.name, checkpoint_id=node.id, size_bytes=10
            )
            named.user_metadata = dict(request.user_metadata) if request.user_metadata else None
            if request.ttl_seconds:
                named.expires_at = func.clock_timestamp() + timedelta(seconds=request.ttl_seconds)
            session.add(named)
        if (opened := request.sampling_session) is not None:
            row = SamplingSessionRow(id=opened.id, session_id=opened.session_id, session_index=opened.index)
            assert model.team_id is not None
            row.team_id, row.kind, row.model_id, row.checkpoint_id = model.team_id, request.use.value, model.id, node.id
            session.add(row)
        await session.flush()
        answer = {"use": request.use.value, "checkpoint_id": str(node.id), "checkpoint": node.name, "size_bytes": 10}
        return encode({**answer, "name": request.name, "sampling_session_id": opened.id if opened else None})


def _with_logprobs(datums: list[Datum], metrics: dict[str, float]) -> bytes:
    """The result of a pass whose caller wants the logprob of every target."""
    logprobs = np.concatenate([-np.ones(datum.targets.size, np.float32) for datum in datums])
    header = {"metrics": metrics, "num_datums": len(datums), "shapes": [list(datum.targets.shape) for datum in datums]}
    return encode(header, {"logprobs": logprobs})


async def add_checkpoint(session: Any, model: ModelRow) -> CheckpointRow:
    """A committed child of the head, which every sampler of the base holds."""
    parent = await session.get(CheckpointRow, model.head_checkpoint_id) if model.head_checkpoint_id else None
    checkpoint_id = uuid.uuid4()
    step = parent.step + 1 if parent else 1
    checkpoint = CheckpointRow(
        id=checkpoint_id,
        model_id=model.id,
        parent_id=model.head_checkpoint_id,
        files_id=checkpoint_id,
        files_model_id=model.id,
        step=step,
        name=f"{step:04d}-{checkpoint_id.hex[:8]}",
        status="committed",
        manifest={},
        metrics={"reward_std": 0.5},
        num_traces=8,
        mean_reward=0.25,
        learning_rate=1e-4,
        loss_fn="importance_sampling",
    )
    session.add(checkpoint)
    await session.flush()
    for sampler_id in await session.scalars(select(SamplerRow.id).where(SamplerRow.base_id == model.base_id)):
        session.add(SamplerAdapterRow(sampler_id=sampler_id, adapter=checkpoint.adapter_name, state="loaded"))
    return checkpoint


async def register_sampler(database: AsyncDatabase, base_id: uuid.UUID, url: str) -> uuid.UUID:
    async with database.session() as session:
        sampler = SamplerRow(base_id=base_id, host="here", pid=1, url=url, backend="stand-in")
        session.add(sampler)
        await session.flush()
        adapter = base_adapter_name(base_id)
        session.add(SamplerAdapterRow(sampler_id=sampler.id, adapter=adapter, state="loaded"))
        return sampler.id


async def keep_alive(database: AsyncDatabase) -> None:
    """Heartbeats of every trainer and sampler that has not stopped."""

    async def beat() -> None:
        async with database.session() as session:
            for row in (TrainerRow, SamplerRow):
                lives = row.stopped_at.is_(None)
                await session.execute(update(row).where(lives).values(heartbeat_at=func.clock_timestamp()))

    async with RepeatedTask(beat, Rhythm(1.0, failed="stand_ins_heart_missed_a_beat", at_once=True)):
        await asyncio.Event().wait()


class BreaksOff:
    """A sampler's app whose connections break where it raises: a process that dies has no status 500 to answer with."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_or_break(message: Message) -> None:
            if message.get("status") == 500:
                await send({**message, "status": 200, "headers": [(b"transfer-encoding", b"chunked")]})
                raise RuntimeError("the connection breaks here")
            await send(message)

        await self._app(scope, receive, send_or_break)
