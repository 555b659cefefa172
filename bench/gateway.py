"""What the gateway costs: errors, throughput, added latency and processor time, at thousands of rollouts at once.

    python -m bench.gateway [--litellm PYTHON] [--workers N] [--worker-cores 0.1]

A real server process on a real (embedded) PostgreSQL; samplers are `bench.stand_in_sampler`, clients
`bench.gateway_load`, each in a process of its own. For each gateway: first all rollouts at once (saturation), then
requests at 60 % of the throughput that this showed. "Added" is what a client waited beyond what the sampler takes for
so many tokens. Processor time is that of the gateway's processes; the database's is told apart.

`--worker-cores` gives each gateway process that share of a core and no more (see `bench.cgroups`), so that a small
machine shows whether several of them do more than one: `bench.gateway_scaling` compares.

`--litellm` is the Python of an environment with `litellm[proxy]`, which is then measured in the same run under plain
chats, without keys in a database, logging or callbacks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import func, update

from bench.cgroups import confined
from bench.figures import write_figures
from server.auth.service import create_key
from store.catalog import ensure_base
from store.database import AsyncDatabase, Database
from store.embedded import EmbeddedPostgres
from store.migrations import upgrade
from store.planes.registration import register_sampler
from store.tables import ModelRow, SamplerAdapterRow, SamplerRow
from wire.adapter_names import base_adapter_name
from wire.process.lifeline import VARIABLE

MODEL = "bench-base"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=2048)
    parser.add_argument("--samplers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument(
        "--warm-up-s", type=float, default=30.0, help="all at once, until first turns are as many as any others"
    )
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--worker-cores", type=float, default=0.0, help="of each gateway process; 0: no limit")
    parser.add_argument("--kinds", nargs="+", default=["rollout", "recorded", "plain"])
    parser.add_argument("--litellm", type=Path, help="Python of an environment with litellm[proxy]")
    parser.add_argument("--litellm-rollouts", type=int, default=256, help="it times requests out at many more")
    parser.add_argument("--machine", default="", help="a word on the machine, for the figures")
    options = parser.parse_args()
    load_average = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="headway-bench-") as folder, ExitStack() as stack:
        ports = [int(stack.enter_context(child(["-m", "bench.stand_in_sampler"]))) for _ in range(options.samplers)]
        samplers = [f"http://127.0.0.1:{port}" for port in ports]
        figures = _headway(Path(folder), samplers, options)
        if options.litellm:
            figures["litellm plain"] = _litellm(Path(folder), samplers, options)
    _report(figures)
    settings = {
        name: getattr(options, name)
        for name in ("rollouts", "samplers", "workers", "worker_cores", "seconds", "warm_up_s")
    }
    machine = {"machine": options.machine, "idle": load_average < 0.5}
    write_figures("gateway", {**machine, **settings, **figures})


def _headway(folder: Path, samplers: list[str], options: argparse.Namespace) -> dict[str, Any]:
    postgres = EmbeddedPostgres(folder / "postgres")
    upgrade(postgres.url)
    key = asyncio.run(furnish(postgres.url, samplers))
    port = free_port()
    environment = {
        "HEADWAY_DATABASE_URL": postgres.url,
        "HEADWAY_SAMPLER_TOKEN": "token",
        "HEADWAY_DATA_DIR": str(folder),
        "HEADWAY_GC_EVERY_S": "0",
    }
    workers = ["--workers", str(options.workers)] if options.workers > 1 else []
    command = [sys.executable, "-m", "cli", "server", "--port", str(port), *workers]
    heart = subprocess.Popen([sys.executable, "-m", "bench.gateway", "--heart", postgres.url], stdin=subprocess.PIPE)
    url = f"http://127.0.0.1:{port}"
    try:
        with served(command, environment, f"{url}/healthz", folder / "server.log") as gateway:
            spared = {"database_cpu": postmaster(folder / "postgres")}
            orders = {"url": url, "key": key, "model": MODEL}
            with _confinement(gateway, options):
                warm_up = {**orders, "kind": "recorded", "rollouts": 128, "seconds": 6.0, "warm_up_s": 1.0}
                load(warm_up, {"gateway_cpu": gateway})
                gather_statistics(postgres.url)
                return {
                    f"headway {kind}": _measure(gateway, {**orders, "kind": kind}, options.rollouts, options, **spared)
                    for kind in options.kinds
                }
    finally:
        heart.kill()
        heart.wait()
        postgres.stop()


def gather_statistics(database_url: str) -> None:
    """As autovacuum does, within a minute of the first rows: until then PostgreSQL takes any index for as good as any
    other, and plans that were made so stay."""
    database = Database(database_url)
    with database.connection() as connection:
        connection.execute("analyze")
    database.close()


def _confinement(gateway: int, options: argparse.Namespace) -> AbstractContextManager[None]:
    """Of each process that answers requests."""
    if not options.worker_cores:
        return nullcontext()
    pids = [gateway] if options.workers == 1 else _workers(gateway, options.workers)
    return confined(pids, options.worker_cores)


def _workers(supervisor: int, count: int) -> list[int]:
    while True:
        children = [pid for pid, parent in parents().items() if parent == supervisor]
        workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        if len(workers) == count:
            return workers
        time.sleep(0.2)


def _litellm(folder: Path, samplers: list[str], options: argparse.Namespace) -> dict[str, Any]:
    models = [
        {"model_name": MODEL, "litellm_params": {"model": "openai/bench", "api_base": f"{url}/v1", "api_key": "none"}}
        for url in samplers
    ]
    config = folder / "litellm.json"  # JSON is YAML
    config.write_text(json.dumps({"model_list": models, "general_settings": {"master_key": "sk-bench"}}))
    port = free_port()
    command = [str(options.litellm.parent / "litellm"), "--config", str(config), "--port", str(port)]
    quiet = {"LITELLM_LOG": "ERROR", "LITELLM_TELEMETRY": "False", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    url = f"http://127.0.0.1:{port}"
    with served(command, quiet, f"{url}/health/liveliness", folder / "litellm.log", timeout_s=180) as gateway:
        orders = {"url": url, "key": "sk-bench", "model": MODEL, "kind": "plain"}
        return _measure(gateway, orders, options.litellm_rollouts, options)


def _measure(
    gateway: int, orders: dict[str, Any], rollouts: int, options: argparse.Namespace, **others: int
) -> dict[str, Any]:
    """Everything at once, then 60 % of what that showed."""
    pids = {"gateway_cpu": gateway, **others}
    at_once = load({**orders, "rollouts": rollouts, "seconds": options.seconds, "warm_up_s": options.warm_up_s}, pids)
    at_once["rollouts"] = rollouts
    rate = 0.6 * at_once["requests_per_s"]
    at_60_percent = load({**orders, "per_second": rate, "seconds": options.seconds, "warm_up_s": 8.0}, pids)
    return {"at_once": at_once, "at_60_percent": at_60_percent}


def load(orders: dict[str, Any], pids: dict[str, int]) -> dict[str, Any]:
    """Run the clients; processor time of others is read over the measured seconds."""
    command = [sys.executable, "-m", "bench.gateway_load", json.dumps(orders)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, VARIABLE: "1"}
    ) as clients:
        assert clients.stdout is not None
        time.sleep(json.loads(clients.stdout.readline())["measuring_in_s"])
        before, since = {name: cpu_s(pid) for name, pid in pids.items()}, time.perf_counter()
        time.sleep(orders["seconds"] - 0.2)
        elapsed_s = time.perf_counter() - since
        spent_s = {name: cpu_s(pid) - before[name] for name, pid in pids.items()}
        seen = json.loads(clients.stdout.readline())
    num_requests = max(1.0, seen["requests_per_s"] * elapsed_s)
    for name, seconds in spent_s.items():
        seen[f"{name}_ms_per_request"] = round(seconds * 1e3 / num_requests, 3)
    seen["gateway_cores_used"] = round(spent_s["gateway_cpu"] / elapsed_s, 2)
    return seen


async def furnish(database_url: str, samplers: list[str]) -> str:
    """A base that all samplers hold, and a key."""
    database, sync = AsyncDatabase(database_url), Database(database_url)
    with sync.session() as session:
        ensure_base(session, MODEL, "/nowhere")
    with sync.session() as session:
        base = session.query(ModelRow).one()
        for url in samplers:
            sampler_id = register_sampler(session, base.id, url, "stand-in")
            session.add(SamplerAdapterRow(sampler_id=sampler_id, adapter=base_adapter_name(base.id), state="loaded"))
    async with database.session() as session:
        key = await create_key(session, f"bench-{secrets.token_hex(4)}", "bench")
    await database.close()
    sync.close()
    return key


def beat(database_url: str) -> None:
    """Heartbeats of the stand-ins."""
    database = Database(database_url)
    while True:
        with database.session() as session:
            session.execute(update(SamplerRow).values(heartbeat_at=func.clock_timestamp()))
        time.sleep(2)


@contextmanager
def child(arguments: list[str]) -> Iterator[str]:
    """A Python process of ours, and the first line it prints."""
    environment = {**os.environ, VARIABLE: "1"}
    with subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline()
        finally:
            process.kill()


@contextmanager
def served(
    command: list[str], environment: dict[str, str], health: str, log: Path, timeout_s: float = 60.0
) -> Iterator[int]:
    """A server that answers; yields its process id."""
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env={**os.environ, **environment})
    try:
        deadline = time.monotonic() + timeout_s
        while not _answers(health):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start: {log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2) as reply:
            return reply.status == 200
    except OSError:
        return False


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def postmaster(folder: Path) -> int:
    return int((folder / "postmaster.pid").read_text().splitlines()[0])


def busy_s() -> float:
    """Processor time of all processes since the machine was started."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq) / TICKS_PER_S


def cpu_s(pid: int) -> float:
    """Processor time of a process, its children, and those of them that have ended."""
    total, children = 0.0, [pid]
    parent_of = parents()
    while children:
        current = children.pop()
        children += [child for child, parent in parent_of.items() if parent == current]
        fields = _stat(current)
        if fields:
            total += sum(int(field) for field in fields[11:15]) / TICKS_PER_S
    return total


def parents() -> dict[int, int]:
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]
    return {pid: int(fields[1]) for pid in pids if (fields := _stat(pid))}


def _stat(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _report(figures: dict[str, Any]) -> None:
    columns = ("errors", "requests/s", "added p50", "added p99", "CPU ms", "DB CPU ms")
    print(f"{'':32}" + "".join(f"{column:>12}" for column in columns))
    for name, phases in figures.items():
        for phase, seen in phases.items():
            added, database = seen["added_ms"], seen.get("database_cpu_ms_per_request", "")
            row = (seen["errors"], seen["requests_per_s"], added.get("p50", ""), added.get("p99", ""))
            row = (*row, seen["gateway_cpu_ms_per_request"], database)
            print(f"{name + ' ' + phase:32}" + "".join(f"{value:>12}" for value in row))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--heart"]:
        beat(sys.argv[2])
    main()
