"""What a fleet costs the control plane: heartbeats, reconciliation, routing and leases with 10, 100 and 1,000 runners,
and a fifth as many samplers.

    python -m bench.fleet [--runners 10 100 1000] [--seconds 10] [--workers 1] [--out bench/results/fleet-2-cores.json]

A real server process on a real (embedded) PostgreSQL, both empty at each size. Runners are `bench.fleet_runners`, which
speak HTTP to the server; samplers are `bench.fleet_samplers`, real agents at the database, in front of one
`bench.stand_in_sampler`. Figures are processor time of the server and of PostgreSQL, as shares of a core at rest and as
milliseconds for each piece of work beyond that; and what a client waits for. `busy_cores` counts all processes, the
stand-ins for the fleet too: near the number of cores they wait for one another, and so does a client.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import text

from bench.figures import write_figures
from bench.gateway import MODEL, busy_s, child, cpu_s, free_port, furnish, gather_statistics, load, postmaster, served
from store.database import AsyncDatabase
from store.embedded import EmbeddedPostgres
from store.migrations import upgrade
from store.notify import PLACEMENT_QUEUED, notify_async
from store.planes.adapters import want_checkpoint
from store.tables import (
    CheckpointRow,
    EnvironmentBuildRow,
    EnvironmentRow,
    ModelRow,
    PlacementRow,
)
from wire.adapter_names import adapter_name

_SETTLE_S = 5.0
_PLACEMENTS_PER_S, _CHATS_PER_S = 20, 40
_WITHIN_S = 60.0


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runners", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=1, help="processes of the server")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    figures = {}
    for runners in options.runners:
        figures[str(runners)] = _measured(runners, max(1, runners // 5), options.seconds, options.workers)
        print(json.dumps({"runners": runners, **figures[str(runners)]}), flush=True)
    _report(figures)
    write_figures("fleet", {"seconds": options.seconds, "workers": options.workers, "sizes": figures}, options.out)


@dataclass(frozen=True, slots=True)
class Plane:
    """The server and its database, and who asks them."""

    url: str
    database: str
    key: str
    pids: dict[str, int]
    runners: subprocess.Popen[str]
    samplers: int

    def spent_s(self) -> dict[str, float]:
        """Processor time so far."""
        return {name: cpu_s(pid) for name, pid in self.pids.items()}

    def seen_by_runners(self) -> dict[str, Any]:
        """Since this was asked last."""
        assert self.runners.stdin is not None
        assert self.runners.stdout is not None
        self.runners.stdin.write("\n")
        self.runners.stdin.flush()
        return json.loads(self.runners.stdout.readline())


def _measured(runners: int, samplers: int, seconds: float, workers: int) -> dict[str, Any]:
    with _plane(runners, samplers, workers) as plane:
        time.sleep(_SETTLE_S)
        gather_statistics(plane.database)
        plane.seen_by_runners()
        busy = busy_s()
        rest, rest_s = _timed(plane, lambda: time.sleep(seconds))
        cores = (busy_s() - busy) / rest_s
        seen = plane.seen_by_runners()
        shares = {name: spent / rest_s for name, spent in rest.items()}
        return {
            "samplers": samplers,
            "at_rest": {
                **{f"{name}_share_of_a_core": round(share, 3) for name, share in shares.items()},
                "busy_cores": round(cores, 2),
                **seen,
            },
            "connections": asyncio.run(_ask(plane.database, "select count(*) from pg_stat_activity")),
            "adapter": asyncio.run(_until_all_hold(plane)),
            "leases": _leases(plane, shares, seconds),
            "chats": _chats(plane, shares, seconds),
        }


@contextmanager
def _plane(runners: int, samplers: int, workers: int) -> Generator[Plane]:
    with tempfile.TemporaryDirectory(prefix="headway-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        postgres = EmbeddedPostgres(folder / "postgres", max_connections=1000)
        upgrade(postgres.url)
        key, port = asyncio.run(furnish(postgres.url, [])), free_port()
        environment = {
            "HEADWAY_DATABASE_URL": postgres.url,
            "HEADWAY_SAMPLER_TOKEN": "token",
            "HEADWAY_DATA_DIR": str(folder),
            "HEADWAY_GC_EVERY_S": "0",
        }
        command = [sys.executable, "-m", "cli", "server", "--port", str(port), "--workers", str(workers)]
        url = f"http://127.0.0.1:{port}"
        try:
            with (
                served(command, environment, f"{url}/healthz", folder / "server.log") as server,
                child(["-m", "bench.stand_in_sampler", "--any"]) as sampler_port,
                child(["-m", "bench.fleet_samplers", postgres.url, str(samplers), sampler_port.strip()]),
                _runners(url, runners, asyncio.run(_runner_key(postgres.url))) as process,
            ):
                pids = {"server": server, "database": postmaster(folder / "postgres")}
                yield Plane(url, postgres.url, key, pids, process, samplers)
        finally:
            postgres.stop()


@contextmanager
def _runners(url: str, count: int, key: str) -> Generator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "bench.fleet_runners", url, str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{key}\n")
        process.stdin.flush()
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("the runners did not register")
        try:
            yield process
        finally:
            process.kill()


def _timed(plane: Plane, work: Callable[[], None]) -> tuple[dict[str, float], float]:
    """Processor time and time."""
    before, since = plane.spent_s(), time.perf_counter()
    work()
    elapsed_s = time.perf_counter() - since
    return {name: spent - before[name] for name, spent in plane.spent_s().items()}, elapsed_s


def _beyond_rest(spent: dict[str, float], elapsed_s: float, shares: dict[str, float], pieces: int) -> dict[str, float]:
    """Milliseconds a piece."""
    return {
        f"{name}_ms_each": round((seconds - shares[name] * elapsed_s) * 1e3 / max(1, pieces), 2)
        for name, seconds in spent.items()
    }


def _leases(plane: Plane, shares: dict[str, float], seconds: float) -> dict[str, Any]:
    """Sessions that come one by one, each to a runner of many that wait."""
    num = round(_PLACEMENTS_PER_S * seconds)
    spent, elapsed_s = _timed(plane, lambda: asyncio.run(_place(plane.database, num)))
    waited = "select extract(epoch from taken_at - available_at) * 1e3 from placements where taken_at is not null"
    waited_ms = asyncio.run(_ask_all(plane.database, waited))
    return {
        "placed": num,
        "taken": len(waited_ms),
        "queued_ms": _percentiles(waited_ms),
        **_beyond_rest(spent, elapsed_s, shares, num),
        "errors": plane.seen_by_runners()["errors"],
    }


def _chats(plane: Plane, shares: dict[str, float], seconds: float) -> dict[str, Any]:
    orders = {"url": plane.url, "key": plane.key, "model": MODEL, "kind": "recorded", "per_second": _CHATS_PER_S}
    pids = {"gateway_cpu": plane.pids["server"], "database_cpu": plane.pids["database"]}
    seen = load({**orders, "seconds": seconds, "warm_up_s": 5.0}, pids)
    beyond = {
        f"{name}_ms_each": round(seen[f"{counted}_ms_per_request"] - share * 1e3 / max(1.0, seen["requests_per_s"]), 2)
        for counted, (name, share) in zip(pids, shares.items(), strict=True)
    }
    return {"requests": seen["requests"], "errors": seen["errors"], "added_ms": seen["added_ms"], **beyond}


async def _runner_key(database_url: str) -> str:
    from server.auth.service import create_key

    database = AsyncDatabase(database_url)
    async with database.session() as session:
        key = await create_key(session, "fleet", "runners", role="runner")
    await database.close()
    return key


async def _place(database_url: str, num: int) -> None:
    database = AsyncDatabase(database_url)
    async with database.session() as session:
        team_id = await session.scalar(text("select team_id from api_keys limit 1"))
        environment = EnvironmentRow(team_id=team_id, name="fleet", declared_name="fleet", next_version=2)
        session.add(environment)
        await session.flush()
        facts = {"source": "folder", "environment_id": environment.id, "version": 1, "declared_name": "fleet"}
        build = EnvironmentBuildRow(team_id=team_id, state="succeeded", manifest={"tasks": []}, **facts)
        session.add(build)
        await session.flush()
        build_id = build.id
    began = time.perf_counter()
    for number in range(num):
        await asyncio.sleep(max(0.0, began + number / _PLACEMENTS_PER_S - time.perf_counter()))
        async with database.session() as session:
            session.add(PlacementRow(team_id=team_id, kind="session", build_id=build_id, timeout_s=60))
            await notify_async(session, PLACEMENT_QUEUED, "")
    await asyncio.sleep(2.0)
    await database.close()


async def _until_all_hold(plane: Plane) -> dict[str, Any]:
    """Seconds from the moment at which a checkpoint is wanted until half of the samplers, and all of them, hold it."""
    database = AsyncDatabase(plane.database)
    async with database.session() as session:
        base_id = await session.scalar(text("select id from models where base_id is null"))
        team_id = await session.scalar(text("select team_id from api_keys limit 1"))
        fork = ModelRow(slug="fork", name="fork", base_id=base_id, team_id=team_id)
        session.add(fork)
        await session.flush()
        node = uuid.uuid4()
        facts: dict[str, Any] = {"name": "0001-bench", "status": "committed", "manifest": {}, "metrics": {}, "step": 1}
        session.add(CheckpointRow(id=node, model_id=fork.id, files_id=node, files_model_id=fork.id, **facts))
        await session.flush()
        await want_checkpoint(session, node, 600.0)
    began, half_s = time.perf_counter(), 0.0
    count = text("select count(*) from sampler_adapters where adapter = :adapter")
    while (elapsed_s := time.perf_counter() - began) < _WITHIN_S:
        async with database.session() as session:
            held = await session.scalar(count, {"adapter": adapter_name(node)}) or 0
        half_s = half_s or (elapsed_s if held * 2 >= plane.samplers else 0.0)
        if held >= plane.samplers:
            break
        await asyncio.sleep(0.02)
    await database.close()
    return {"half_hold_s": round(half_s, 2), "all_hold_s": round(elapsed_s, 2)}


async def _ask(database_url: str, question: str) -> Any:
    return (await _ask_all(database_url, question))[0]


async def _ask_all(database_url: str, question: str) -> list[Any]:
    database = AsyncDatabase(database_url)
    async with database.session() as session:
        found = list(await session.scalars(text(question)))
    await database.close()
    return found


def _percentiles(values: list[Any]) -> dict[str, float]:
    if len(values) < 2:
        return {}
    cuts = statistics.quantiles(map(float, values), n=100)
    return {f"p{p}": round(cuts[p - 1], 1) for p in (50, 99)}


def _report(figures: dict[str, Any]) -> None:
    columns = (
        "server",
        "database",
        "cores",
        "beat p50",
        "p99",
        "lease p50",
        "p99",
        "lease CPU",
        "chat +p50",
        "chat CPU",
        "hold s",
    )
    print(f"{'runners':>8}" + "".join(f"{column:>11}" for column in columns))
    for size, found in figures.items():
        rest, leases, chats = found["at_rest"], found["leases"], found["chats"]
        row = [
            rest["server_share_of_a_core"],
            rest["database_share_of_a_core"],
            rest["busy_cores"],
            *rest["heartbeat_ms"].values(),
            *leases["queued_ms"].values(),
            leases["server_ms_each"],
            chats["added_ms"].get("p50", ""),
            chats["server_ms_each"],
            found["adapter"]["all_hold_s"],
        ]
        print(f"{size:>8}" + "".join(f"{value:>11}" for value in row))


if __name__ == "__main__":
    main()
