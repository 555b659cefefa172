"""A trainer and a sampler with made-up results, for tests of the wire alone. The real ones are tested end to end."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from sqlalchemy import func, select, text, update

from sampler.admission.limits import max_new_tokens
from sampler.backends.base import AnswerReader, SamplerInfo
from sampler.chat.reading import BufferingParser
from sampler.refusals import error_response
from store.database import AsyncDatabase
from store.notify import OPERATION_DONE, notify_async
from store.oplog.conditions import PENDING_GRADIENT, UNACKNOWLEDGED
from store.planes.adapters import base_adapter_name
from store.tables import CheckpointRow, ModelRow, OperationRow, SamplerAdapterRow, SamplerRow, TrainerRow
from wire.errors import InvalidRequest
from wire.payload import decode, decode_batch, encode
from wire.sampling import (
    DerenderRequest,
    GenerateEvent,
    GenerateRequest,
    MessageDelta,
    ParsedCall,
    ParsedMessage,
    ParseOptions,
    RenderRequest,
    SampledTokens,
    TokenizeRequest,
    TopLogprob,
)

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


class StandInTrainer:
    """Answers whatever is queued with results of the right shape."""

    def __init__(self, database: AsyncDatabase) -> None:
        self._database = database
        self.paused = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> StandInTrainer:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(0.02)
            if self.paused:
                continue
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
        batch, extra = decode_batch(operation.payload or b"")
        assert set(extra) - {"metrics"} == {"loss_fn", "loss_fn_config", "num_substeps"}
        metrics = {"loss:sum": -0.5, "kl:mean": float("nan"), **extra.get("metrics", {})}
        return encode({"metrics": metrics, "num_datums": len(batch.trajectories)})

    async def _forward(self, session: Any, operation: OperationRow, model: ModelRow) -> bytes:
        batch, _ = decode_batch(operation.payload or b"")
        operation.head_version = model.head_version
        lengths = [len(t.turns[0].prompt_ids) + len(t.turns[0].output_ids) - 1 for t in batch.trajectories]
        ones = np.ones(sum(lengths), np.float32)
        arrays = {"logprobs": -ones, "sampling_logprobs": -ones, "mask": ones}
        arrays["rewards"] = np.array([t.reward for t in batch.trajectories], np.float64)
        return encode({"traj_idx": list(range(len(lengths))), "lengths": lengths}, arrays)

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
    while True:
        async with database.session() as session:
            for row in (TrainerRow, SamplerRow):
                lives = row.stopped_at.is_(None)
                await session.execute(update(row).where(lives).values(heartbeat_at=func.clock_timestamp()))
        await asyncio.sleep(1)


END = 2
"""A token is its character's code point; this one ends a turn."""


@dataclass
class SamplerScript:
    """What the stand-in sampler does next."""

    answer: str = "36"
    calls: int = 1
    requests: list[GenerateRequest] = field(default_factory=list)
    renders: list[RenderRequest] = field(default_factory=list)
    cancelled: int = 0
    endless: bool = False
    die_times: int = 0
    die_after_tokens: int = 0
    refusal: str = ""
    die_after_s: float = 0.0


def create_sampler(script: SamplerScript, info: SamplerInfo) -> FastAPI:
    """A sampler whose tokens are characters and whose tool calls are `CALL name {...}`."""
    app = FastAPI()

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/render")
    async def render(body: RenderRequest) -> dict[str, Any]:
        return {"token_ids": _rendered(script, body)}

    @app.post("/tokenize")
    async def tokenize(body: TokenizeRequest) -> dict[str, Any]:
        return {"token_ids": list(map(ord, body.text))}

    @app.post("/generate", response_model=None)
    async def generate(body: GenerateRequest, request: Request) -> JSONResponse | StreamingResponse:
        if body.chat is not None:
            body.prompt_token_ids = _rendered(script, body.chat)
        refusal = _refusal(body, info)
        if refusal is None:
            script.requests.append(body)
            refusal = InvalidRequest(script.refusal, param="constraint") if script.refusal else None
        if refusal is not None:
            return error_response(refusal)
        if script.die_times > 0 and script.die_after_tokens == 0:
            script.die_times -= 1
            return JSONResponse({"code": "not_found", "message": f"adapter {body.adapter} is not here"}, 404)
        return StreamingResponse(_lines(script, body), media_type="application/x-ndjson")

    return app


def _rendered(script: SamplerScript, chat: RenderRequest) -> list[int]:
    script.renders.append(chat)
    following = chat.messages[chat.continued_messages :] if chat.continued_ids else chat.messages
    text = "".join(f"<{m['role']}>{m['content']}" for m in following) + "<assistant>"
    return [*(chat.continued_ids or []), *map(ord, text)]


def _refusal(body: GenerateRequest, info: SamplerInfo) -> InvalidRequest | None:
    try:
        max_new_tokens(body, info)
    except InvalidRequest as error:
        return error
    return None


async def _derendered(script: SamplerScript, body: DerenderRequest) -> ParsedMessage:
    thought, _, text = body.text.rpartition("</think>")
    thought = thought.removeprefix("<think>") or None
    if body.tools and text.startswith("CALL "):
        _, name, arguments = text.split(" ", 2)
        return ParsedMessage(
            content=None,
            reasoning_content=thought,
            tool_calls=[ParsedCall(name=name, arguments=arguments)] * script.calls,
        )
    return ParsedMessage(content=text, reasoning_content=thought)


async def _lines(script: SamplerScript, body: GenerateRequest) -> AsyncIterator[str]:
    text = script.answer if not script.endless else "x" * 100_000
    limit = body.params.max_tokens or len(text) + 1
    finished, prompt_ids = False, body.prompt_token_ids if body.chat else None
    reading = body.reading
    reader = _reader(script, reading) if reading and not body.whole else None
    try:
        for position, character in enumerate(text[:limit]):
            if script.die_times > 0 and position == script.die_after_tokens:
                script.die_times -= 1
                await asyncio.sleep(script.die_after_s)
                raise RuntimeError("the stand-in sampler dies as it was told")
            tokens = _token(ord(character), character, body)
            yield await _line(reader, tokens, character, None, prompt_token_ids=prompt_ids if position == 0 else None)
            if script.endless:
                await asyncio.sleep(0.01)
        message = None
        if reading and body.whole:
            said = DerenderRequest(token_ids=[], text=text[:limit], **dict(reading))
            message = await _derendered(script, said)
        if limit > len(text):
            yield await _line(reader, _token(END, "", body), "", "stop", message=message)
        else:
            yield await _line(reader, SampledTokens(), "", "length", message=message)
        finished = True
    finally:
        script.cancelled += not finished


class _AsItComes:
    async def take(self, event: GenerateEvent) -> list[MessageDelta]:
        return [MessageDelta(content=event.text)] if event.text else []


def _reader(script: SamplerScript, reading: ParseOptions) -> AnswerReader:
    if reading.tools or script.answer.startswith("<think>"):
        return BufferingParser(reading, partial(_derendered, script))
    return _AsItComes()


def _token(token_id: int, text: str, body: GenerateRequest) -> SampledTokens:
    alternatives = [
        TopLogprob(token_id=65 + i, token=chr(65 + i), logprob=-2.0) for i in range(body.params.top_logprobs)
    ]
    tokens = SampledTokens()
    tokens.add(token_id, text, -0.5, alternatives or None)
    return tokens


async def _line(reader: AnswerReader | None, tokens: SampledTokens, text: str, finish_reason: Any, **more: Any) -> str:
    event = GenerateEvent(tokens=tokens, text=text, finish_reason=finish_reason, **more)
    if reader is not None:
        event.deltas = await reader.take(event)
    return event.model_dump_json() + "\n"
