"""Op log, leases and tree against a model of them in memory: the same calls in any order, the same state after each.

`HYPOTHESIS_PROFILE=long` goes on for minutes instead of seconds.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg.errors import UniqueViolation
from sqlalchemy import text

from store.database import AsyncDatabase, Database, normalise_url, psycopg_dsn
from store.invariants import check_all
from store.notify import AsyncListener
from store.oplog import leases, work
from store.oplog.append import append_operation
from store.oplog.lost_answers import abandon, adopt, repeated_step
from store.oplog.operation import ModelState, Operation
from store.oplog.results import wait_for_result
from store.oplog.waiting import WaitingCalls
from store.oplog.work import Lease
from store.planes.presence import PRESENT, Presence
from store.tables import ModelRow, OperationRow
from store.tree import move_head
from tests.unit.conftest import World
from wire.errors import HeadwayError, InvalidRequest, LeaseLost, Superseded, TimedOut
from wire.payload import encode

EXAMPLES = {"default": 12, "long": 1000}[os.environ.get("HYPOTHESIS_PROFILE", "default")]
GRADIENTS = ("forward_backward", "backward")
RESULT = {"result": encode({"metrics": {}, "num_datums": 1})}


@dataclass
class Expected:
    """An operation as it should be."""

    id: UUID
    sequence: int
    kind: str
    body: int
    key: str | None
    head_version: int
    forward: Expected | None = None
    state: str = "queued"
    caller: int | None = None
    is_answered: bool = False
    consumed_by: UUID | None = None

    @property
    def is_open(self) -> bool:
        return self.state in ("queued", "running")

    @property
    def is_pending(self) -> bool:
        return self.kind in GRADIENTS and self.state == "done" and self.consumed_by is None

    @property
    def can_be_taken_over(self) -> bool:
        lives = self.is_open or self.state == "done"
        unanswered = not self.is_answered and self.key is None and self.consumed_by is None
        return self.kind in GRADIENTS and lives and unanswered


@dataclass
class Trainer:
    """What a trainer process knows, which may be out of date."""

    id: UUID
    lease: Lease | None = None
    work: tuple[Operation, ModelState] | None = None
    staged: UUID | None = None

    def forget(self) -> None:
        self.work = self.staged = None


@dataclass
class Server:
    """A server process as PostgreSQL sees it: a connection with a lock."""

    dsn: str
    presence: Presence = field(default_factory=Presence)

    def __post_init__(self) -> None:
        self.connection = psycopg.connect(self.dsn, autocommit=True)
        asyncio.run(self.presence.announce(_Async(self.connection)))  # type: ignore[arg-type]

    def die(self) -> None:
        self.connection.close()


class _Async:
    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    async def execute(self, *args: Any) -> Any:
        return self._connection.execute(*args)


class OpLogMachine(RuleBasedStateMachine):
    database: Database
    async_database: AsyncDatabase
    runner: asyncio.Runner
    world: World

    @initialize()
    def begin(self) -> None:
        self.now = itertools.count(1)
        self.dsn = psycopg_dsn(normalise_url(self.database.url.render_as_string(hide_password=False)))
        self.server = Server(self.dsn)
        self.trainers = [Trainer(self.world.trainer_id), Trainer(self.world.other_trainer_id)]
        self.operations: list[Expected] = []
        self.tree: dict[UUID, tuple[UUID | None, int]] = {}
        self.head: UUID | None = None
        self.head_version = 0
        self.holder: Trainer | None = None
        self.is_expired = False
        self.token = 0
        with self.database.session() as session:
            session.execute(text("update models set head_checkpoint_id = null"))
            session.execute(text("update checkpoints set operation_id = null"))
            for table in ("operations", "checkpoints", "model_leases", "models where base_id is not null"):
                session.execute(text(f"delete from {table}"))
            model = ModelRow(
                id=uuid.uuid4(), team_id=self.world.team_id, base_id=self.world.base_id, slug="m", name="m", lora={}
            )
            session.add(model)
            self.model_id = model.id

    def teardown(self) -> None:
        if hasattr(self, "server"):
            self.server.die()

    # What servers do.

    @rule(
        kind=st.sampled_from(["forward_backward", "forward_backward", "forward", "optim_step"]),
        body=st.integers(0, 1),
        key=st.sampled_from([None, None, None, "a", "b"]),
    )
    def call(self, kind: str, body: int, key: str | None) -> None:
        self._call(kind, body, key, None)

    @precondition(lambda self: any(o.kind == "forward" and o.state == "done" for o in self.operations))
    @rule(body=st.integers(0, 1), data=st.data())
    def backward(self, body: int, data: st.DataObject) -> None:
        forwards = [o for o in self.operations if o.kind == "forward" and o.state == "done"]
        self._call("backward", body, None, data.draw(st.sampled_from(forwards)))

    @rule(body=st.integers(0, 1), index=st.integers(0, 1), is_run_again=st.booleans())
    def training_loop(self, body: int, index: int, is_run_again: bool) -> None:
        """One round of it; the loop may have been killed and run again, with other rollouts."""
        if is_run_again:
            self._call("forward_backward", 1 - body, None, None)
            self._hang_up(self.operations[-1])
        self._call("forward_backward", body, None, None)
        self.work_off(index)
        for operation in self.operations:
            if operation.is_pending and operation.caller is not None and not operation.is_answered:
                self._take(operation)
        self._call("optim_step", body, None, None)
        self.work_off(index)

    def _call(self, kind: str, body: int, key: str | None, forward: Expected | None) -> None:
        caller = self.server.presence.new_call()
        digest = repr((kind, body, forward.sequence if forward else None)).encode()
        if key is None and kind in GRADIENTS:
            lost = [o for o in self.operations if o.can_be_taken_over and self._digest(o) == digest]
            adopted = self._run(adopt, self.model_id, digest, caller)
            assert adopted == (lost[0].id if lost else None)
            if lost:
                lost[0].caller = caller
                return
        is_known = key is not None and any(o.key == key for o in self.operations)
        values = {
            "model_id": self.model_id,
            "kind": kind,
            "payload": encode({}),
            "request_digest": digest,
            "body_digest": digest,
            "idempotency_key": key,
            "forward_id": forward.id if forward else None,
            "caller": caller,
        }
        try:
            appended = self._run(append_operation, **values)
        except UniqueViolation:
            assert is_known
            return
        assert not is_known
        sequence = len(self.operations) + 1
        assert appended.sequence == sequence
        self.operations.append(
            Expected(appended.id, sequence, kind, body, key, self.head_version, forward, caller=caller)
        )

    @precondition(lambda self: self.operations)
    @rule(data=st.data())
    def take_answer(self, data: st.DataObject) -> None:
        self._take(data.draw(st.sampled_from(self.operations)))

    def _take(self, operation: Expected) -> None:
        caller = self.server.presence.new_call()
        error = {"done": None, "failed": InvalidRequest, "superseded": Superseded}.get(operation.state, TimedOut)
        try:
            calls = WaitingCalls(self.async_database, AsyncListener(str(self.async_database.url)))
            taking = wait_for_result(self.async_database, calls, None, operation.id, 0.0, caller)  # type: ignore[arg-type]
            self.runner.run(taking)
            assert error is None
            operation.caller = None if operation.is_answered else caller
            operation.is_answered = True
        except HeadwayError as refused:
            assert error is not None
            assert isinstance(refused, error)

    @precondition(lambda self: any(o.caller is not None for o in self.operations))
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        self._hang_up(data.draw(st.sampled_from([o for o in self.operations if o.caller is not None])))

    def _hang_up(self, operation: Expected) -> None:
        if operation.caller is not None:
            self.runner.run(abandon(self.async_database, operation.id, operation.caller))
            operation.caller, operation.is_answered = None, False

    @rule()
    def server_dies(self) -> None:
        number = self.server.presence.number
        self.server.die()
        self.server = Server(self.dsn)
        while number in self._present():
            time.sleep(0.001)

    @rule(data=st.data())
    def set_head(self, data: st.DataObject) -> None:
        target = data.draw(st.sampled_from([None, *self.tree]))
        self.runner.run(self._move_head(target))
        self.head, self.head_version = target, self.head_version + 1
        for operation in self.operations:
            is_step = operation.kind == "optim_step" and operation.is_open
            if is_step or operation.is_pending or (operation.kind in GRADIENTS and operation.is_open):
                operation.state = "superseded"

    # What trainers do.

    @rule(index=st.integers(0, 1))
    def lease(self, index: int) -> None:
        trainer = self.trainers[index]
        with self.database.session() as session:
            token = leases.acquire(session, trainer.id, self.model_id)
            # Nobody gives way to another trainer, and no lease runs out, however slow this machine is.
            later = "clock_timestamp() + interval '1 hour'"
            session.execute(text(f"update model_leases set taken_at = {later}, expires_at = {later}"))
        is_free = self.holder in (None, trainer) or self.is_expired
        assert (token is not None) == is_free
        if token is not None:
            assert token > self.token
            self.holder, self.token, self.is_expired = trainer, token, False
            trainer.lease = Lease(self.model_id, token)
            trainer.forget()
            for operation in self.operations:
                if operation.state == "running":
                    operation.state = "queued"

    @precondition(lambda self: self.holder is not None)
    @rule()
    def lease_runs_out(self) -> None:
        with self.database.session() as session:
            session.execute(text("update model_leases set expires_at = expires_at - interval '2 hours'"))
        self.is_expired = True

    @rule(index=st.integers(0, 1))
    def work_off(self, index: int) -> None:
        """All that waits, undisturbed."""
        trainer = self.trainers[index]
        if not self._holds(trainer):
            self.lease(index)
        while self._holds(trainer) and any(o.is_open for o in self.operations):
            if trainer.staged is None:
                self._start(trainer)
            self._finish(trainer, fails=False)
            self._stage(trainer)
            self._commit(trainer)

    @precondition(lambda self: any(t.lease and not t.staged for t in self.trainers))
    @rule(index=st.integers(0, 1))
    def start(self, index: int) -> None:
        self._start(self._trainer(index, lambda t: t.lease and not t.staged))

    def _start(self, trainer: Trainer) -> None:
        assert trainer.lease is not None
        following = next((o for o in self.operations if o.is_open), None)
        with self.database.connection() as connection:
            if not self._holds(trainer):
                with pytest.raises(LeaseLost):
                    work.start_next(connection, trainer.lease)
                return
            trainer.work = work.start_next(connection, trainer.lease)
        if following is None:
            assert trainer.work is None
            return
        assert trainer.work is not None
        operation, model = trainer.work
        assert operation.id == following.id
        assert (model.head_checkpoint_id, model.head_version) == (self.head, self.head_version)
        following.state = "running"
        if following.kind in ("forward", "optim_step"):
            following.head_version = self.head_version
        if following.kind == "optim_step":
            for gradient in self.operations[: following.sequence - 1]:
                if gradient.is_pending and not self._is_acknowledged(gradient):
                    gradient.state = "superseded"

    @precondition(lambda self: any(t.work and t.work[0].kind != "optim_step" for t in self.trainers))
    @rule(index=st.integers(0, 1), fails=st.booleans())
    def finish(self, index: int, fails: bool) -> None:
        self._finish(self._trainer(index, lambda t: t.work and t.work[0].kind != "optim_step"), fails)

    def _finish(self, trainer: Trainer, fails: bool) -> None:
        if trainer.work is None or trainer.lease is None or trainer.work[0].kind == "optim_step":
            return
        operation, expected = trainer.work[0], self._of(trainer)
        fails = fails or (expected.forward is not None and not self._may_use(expected.forward))
        trainer.forget()

        def write(connection: Any) -> None:
            if fails:
                work.fail(connection, trainer.lease, operation, InvalidRequest("no"))
            else:
                summary = {} if operation.kind in GRADIENTS else None
                work.complete(connection, trainer.lease, operation, RESULT, summary)

        if self._write(trainer, expected, write):
            expected.state = "failed" if fails else "done"
            if expected.forward and not fails:
                expected.forward.consumed_by = expected.id

    @precondition(lambda self: any(t.work and t.work[0].kind == "optim_step" for t in self.trainers))
    @rule(index=st.integers(0, 1))
    def stage(self, index: int) -> None:
        self._stage(self._trainer(index, lambda t: t.work and t.work[0].kind == "optim_step"))

    def _stage(self, trainer: Trainer) -> None:
        if trainer.work is None or trainer.lease is None or trainer.work[0].kind != "optim_step" or trainer.staged:
            return
        operation, model = trainer.work
        if self._holds(trainer) and not self._pending():
            self._fail_step(trainer)
            return
        values = dict.fromkeys(("num_traces", "num_datums", "num_tokens", "mean_reward", "learning_rate", "loss_fn"))
        checkpoint_id = uuid.uuid4()
        with self.database.connection() as connection:
            try:
                values |= {"id": checkpoint_id, "manifest": {}, "metrics": {}}
                work.stage_checkpoint(connection, trainer.lease, operation, model, values)
                assert self._holds(trainer)
                trainer.staged = checkpoint_id
            except LeaseLost:
                assert not self._holds(trainer)
                trainer.forget()

    @precondition(lambda self: any(t.staged for t in self.trainers))
    @rule(index=st.integers(0, 1))
    def commit(self, index: int) -> None:
        self._commit(self._trainer(index, lambda t: t.staged))

    def _commit(self, trainer: Trainer) -> None:
        if trainer.staged is None or trainer.work is None:
            return
        (operation, model), expected, staged = trainer.work, self._of(trainer), trainer.staged
        trainer.forget()
        pending = self._pending()

        def write(connection: Any) -> None:
            work.commit_step(connection, trainer.lease, operation, model, staged, encode({}))

        if self._write(trainer, expected, write):
            expected.state = "done"
            for gradient in pending:
                gradient.consumed_by = expected.id
            self.tree[staged] = (self.head, self.tree[self.head][1] + 1 if self.head else 1)
            self.head, self.head_version = staged, self.head_version + 1
        else:
            with self.database.connection() as connection:
                work.reject_checkpoint(connection, staged)

    @precondition(lambda self: any(t.staged for t in self.trainers))
    @rule(index=st.integers(0, 1))
    def promotion_is_rejected(self, index: int) -> None:
        trainer = self._trainer(index, lambda t: t.staged)
        assert trainer.staged is not None
        with self.database.connection() as connection:
            work.reject_checkpoint(connection, trainer.staged)
        self._fail_step(trainer)

    def _fail_step(self, trainer: Trainer) -> None:
        assert trainer.work is not None
        operation, expected = trainer.work[0], self._of(trainer)
        trainer.forget()
        if self._write(trainer, expected, lambda c: work.fail(c, trainer.lease, operation, InvalidRequest("no"))):
            expected.state = "failed"
            self._check_repetition(expected)

    def _check_repetition(self, step: Expected) -> None:
        before = [o for o in self.operations[: step.sequence - 1] if o.state == "done" and o.kind != "forward"]
        last = before[-1] if before else None
        repeats = (
            last is not None
            and last.kind == "optim_step"
            and last.body == step.body
            and last.head_version + 1 == self.head_version
        )
        assert self._run(repeated_step, step.id) == (last.id if last is not None and repeats else None)

    def _write(self, trainer: Trainer, expected: Expected, write: Any) -> bool:
        """Whether it was written, which it is under the lease and while the operation runs."""
        error = None if self._holds(trainer) else LeaseLost
        if error is None and expected.state != "running":
            error = Superseded
        with self.database.connection() as connection:
            if error is None:
                write(connection)
            else:
                with pytest.raises(error):
                    write(connection)
        return error is None

    # What must be so after each of them.

    @invariant()
    def the_log_is_as_expected(self) -> None:
        if not hasattr(self, "operations"):
            return
        with self.database.session() as session:
            rows = session.query(OperationRow).order_by(OperationRow.sequence).all()
        found = [
            (r.id, r.sequence, r.state, r.consumed_by_id, r.caller, r.answered_at is not None, r.head_version)
            for r in rows
        ]
        assert found == [
            (o.id, o.sequence, o.state, o.consumed_by, o.caller, o.is_answered, o.head_version) for o in self.operations
        ]

    @invariant()
    def the_tree_is_as_expected(self) -> None:
        if not hasattr(self, "tree"):
            return
        with self.database.connection() as connection:
            query = "select id, parent_id, step from checkpoints where status = 'committed'"
            assert {row.id: (row.parent_id, row.step) for row in connection.execute(query)} == self.tree
            query = "select head_checkpoint_id, head_version from models where base_id is not null"
            assert list(connection.execute(query)) == [(self.head, self.head_version)]

    @invariant()
    def nothing_contradicts_the_invariants(self) -> None:
        if hasattr(self, "tree"):
            with self.database.session() as session:
                assert check_all(session) == []

    def _trainer(self, index: int, is_possible: Callable[[Trainer], object]) -> Trainer:
        """One of the two for which it is possible, this one if it can be."""
        return next(t for t in (self.trainers[index], *self.trainers) if is_possible(t))

    def _holds(self, trainer: Trainer) -> bool:
        return trainer.lease is not None and self.holder is trainer and trainer.lease.token == self.token

    def _of(self, trainer: Trainer) -> Expected:
        assert trainer.work is not None
        started = trainer.work[0].id
        return next(o for o in self.operations if o.id == started)

    def _pending(self) -> list[Expected]:
        return [o for o in self.operations if o.is_pending]

    def _is_acknowledged(self, operation: Expected) -> bool:
        waits = operation.caller is not None and operation.caller >> 32 == self.server.presence.number
        return operation.is_answered or operation.key is not None or waits

    def _may_use(self, forward: Expected) -> bool:
        return forward.consumed_by is None and forward.head_version == self.head_version

    def _digest(self, operation: Expected) -> bytes:
        forward = operation.forward.sequence if operation.forward else None
        return repr((operation.kind, operation.body, forward)).encode()

    def _present(self) -> list[int]:
        with self.database.connection() as connection:
            (row,) = connection.execute(f"select {PRESENT} as numbers".encode())
        return row.numbers

    def _run(self, ask: Any, *args: Any, **values: Any) -> Any:
        async def asked() -> Any:
            async with self.async_database.connection() as connection:
                return await ask(connection, *args, **values)

        return self.runner.run(asked())

    async def _move_head(self, target: UUID | None) -> None:
        async with self.async_database.session() as session:
            await move_head(session, self.model_id, target)


def test_op_log_leases_and_tree_do_as_their_model_does(database: Database, world: World, postgres_url: str):
    with asyncio.Runner() as runner:
        async_database = AsyncDatabase(postgres_url)
        members = {"database": database, "async_database": async_database, "runner": runner, "world": world}
        machine = type("OpLogMachine", (OpLogMachine,), members)
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        runner.run(async_database.close())
