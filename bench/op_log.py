"""Whether the op log stays as fast as it begins: with 500 operations queued, and with 100,000 finished ones behind it.

The statements of `store.oplog` on an embedded PostgreSQL, no HTTP and no torch: the server appends an operation, the
trainer looks for it, starts it and completes it, the server takes the answer. Medians for one operation while it is
alone in an empty log ("alone"), while 500 of four models wait ("queued"), and alone behind 100,000 that have ended
("finished"). Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

from bench.figures import write_figures
from store.database import AsyncConnection, AsyncDatabase, Database
from store.embedded import EmbeddedPostgres
from store.migrations import upgrade
from store.notify import AsyncListener
from store.oplog import leases, work
from store.oplog.append import append_operation
from store.oplog.lost_answers import adopt
from store.oplog.results import wait_for_result
from store.oplog.scheduling import next_model
from store.oplog.waiting import WaitingCalls
from store.oplog.work import Lease
from store.planes.registration import register_trainer
from store.tables import ModelRow, TeamRow
from wire.payload import encode

NUM_MODELS = 4
PAYLOAD = encode({"loss_fn": "ppo"}) + b"x" * 2000
RESULT = {"result": encode({"metrics": {"loss:sum": 0.5}, "num_datums": 8})}
STAGES = ("append", "next", "start", "complete", "take")

Row = dict[str, float]


class OpLog:
    """One base, some models of it, one trainer that leases them all."""

    def __init__(self, url: str, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._async_database = AsyncDatabase(url)
        self._calls = WaitingCalls(self._async_database, AsyncListener(url))
        self.database = Database(url)
        with self.database.session() as session:
            team = TeamRow(name=uuid.uuid4().hex)
            base = ModelRow(slug=uuid.uuid4().hex, name="base", weights="/nowhere")
            session.add_all([team, base])
            session.flush()
            self.base_id, self.trainer_id = base.id, register_trainer(session, base.id, {})
            models = [
                ModelRow(team_id=team.id, base_id=base.id, slug=f"m{i}", name=f"m{i}", lora={})
                for i in range(NUM_MODELS)
            ]
            session.add_all(models)
            session.flush()
            self.models = [model.id for model in models]
            self.leases = {m: Lease(m, leases.acquire(session, self.trainer_id, m) or 0) for m in self.models}
        self._bodies, self._turns = itertools.count(), itertools.cycle(self.models)

    def append(self) -> None:
        """To the models in turn, as the server does it: first it looks for the same call."""
        model_id = next(self._turns)

        async def append(connection: AsyncConnection) -> None:
            body = next(self._bodies).to_bytes(32, "big")
            assert await adopt(connection, model_id, body, 1) is None
            kind = "forward_backward"
            values = {"model_id": model_id, "kind": kind, "payload": PAYLOAD, "request_digest": body, "caller": 1}
            await append_operation(connection, **values)

        self._runner.run(self._with_connection(append))

    def work_off(self) -> Row:
        """The next operation, from the trainer's look for it to the answer."""
        clock = Clock()
        with self.database.connection() as connection:
            found = next_model(connection, self.base_id, self.trainer_id)
            assert found is not None
            clock.lap("next")
            started = work.start_next(connection, self.leases[found.model_id])
            assert started is not None
            clock.lap("start")
            work.complete(connection, self.leases[found.model_id], started[0], RESULT, {})
            clock.lap("complete")
        taking = wait_for_result(self._async_database, self._calls, None, started[0].id, 0.0, 1)  # type: ignore[arg-type]
        self._runner.run(taking)
        clock.lap("take")
        return clock.laps

    def consume(self) -> None:
        """What is pending goes into a step, as after a round of a training loop."""
        pending = b"kind = 'forward_backward' and state = 'done' and consumed_by_id is null"
        with self.database.connection() as connection:
            connection.execute(b"update operations set consumed_by_id = id where " + pending)

    def keep_house(self) -> None:
        """What PostgreSQL does by itself when it gets round to it."""
        with self.database.connection() as connection:
            connection.execute(b"vacuum analyze")
            connection.execute(b"checkpoint")

    def fill(self, num_operations: int) -> None:
        """Finished operations of long ago, as many for each model."""
        query = """
            insert into operations (
                id, model_id, sequence, head_version, kind, state, payload, request_digest, result, summary, attempts,
                created_at, started_at, finished_at, answered_at, consumed_by_id, caller
            )
            select id, model_id, next_sequence - 1 + i, 0,
                case when i % 3 = 0 then 'optim_step' else 'forward_backward' end, 'done', %(payload)s,
                decode(md5(id::text), 'hex'), %(result)s, '{}', 1, now(), now(), now(), now(),
                case when i % 3 > 0 then id end, 1
            from (
                select gen_random_uuid() as id, m.id as model_id, m.next_sequence, i
                from models m cross join generate_series(1, %(each)s) i where m.base_id = %(base_id)s
            ) as made
        """
        each = num_operations // NUM_MODELS
        values = {"payload": PAYLOAD, "result": RESULT["result"], "each": each, "base_id": self.base_id}
        with self.database.connection() as connection:
            connection.execute(query.replace("% 3", "%% 3").encode(), values)
            connection.execute(
                b"update models set next_sequence = next_sequence + %(each)s where base_id = %(base_id)s", values
            )

    async def _with_connection(self, ask: Callable[[AsyncConnection], Awaitable[None]]) -> None:
        async with self._async_database.connection() as connection:
            await ask(connection)


class Clock:
    """Milliseconds between laps."""

    def __init__(self) -> None:
        self.laps: Row = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Since the last one."""
        now = time.perf_counter()
        self.laps[name] = (now - self._last) * 1e3
        self._last = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--queued", type=int, default=500)
    parser.add_argument("--finished", type=int, default=100_000)
    options = parser.parse_args()
    with ExitStack() as stack, asyncio.Runner() as runner:
        logs = {"alone": new_log(stack, runner), "queued": new_log(stack, runner), "finished": new_log(stack, runner)}
        for _ in range(options.queued - 1):
            logs["queued"].append()
        logs["finished"].fill(options.finished)
        measure(logs, options.rounds // 2)  # connections, prepared statements, caches
        for log in logs.values():
            log.keep_house()
        report(options, measure(logs, options.rounds))


def new_log(stack: ExitStack, runner: asyncio.Runner) -> OpLog:
    """On a PostgreSQL of its own."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headway-bench-")))
    folder.chmod(0o755)  # PostgreSQL's own user has to reach it
    postgres = EmbeddedPostgres(folder / "postgres")
    stack.callback(postgres.stop)
    upgrade(postgres.url)
    return OpLog(postgres.url, runner)


def measure(logs: dict[str, OpLog], rounds: int) -> dict[str, list[Row]]:
    """One operation in, one out; the logs take turns, so that whatever else the machine does slows all of them."""
    measured: dict[str, list[Row]] = {name: [] for name in logs}
    for index in range(rounds):
        for name, log in logs.items():
            clock = Clock()
            log.append()
            clock.lap("append")
            measured[name].append({**clock.laps, **log.work_off()})
            if index % 20 == 19:
                log.consume()
    return measured


def report(options: argparse.Namespace, measured: dict[str, list[Row]]) -> None:
    medians = {name: summary(rows) for name, rows in measured.items()}
    columns = (*STAGES, "total", "ratio")
    print(f"one operation through the op log, milliseconds (median of {options.rounds})")
    print(f"{'':10}" + "".join(f"{column:>10}" for column in columns))
    for name, row in medians.items():
        row["ratio"] = round(row["total"] / medians["alone"]["total"], 2)
        print(f"{name:10}" + "".join(f"{row[column]:>10}" for column in columns))
    depths = {"num_queued": options.queued, "num_finished": options.finished, "rounds": options.rounds}
    write_figures("op_log", {**depths, **medians})


def summary(rows: list[Row]) -> Row:
    """Medians of each stage, and of their sum."""
    stages = {stage: statistics.median(row[stage] for row in rows) for stage in STAGES}
    total = statistics.median(sum(row.values()) for row in rows)
    return {name: round(value, 3) for name, value in {**stages, "total": total}.items()}


if __name__ == "__main__":
    main()
