"""Thousands of hosted rollouts at once over several runner processes, half of which are killed in the middle.

    python -m bench.rollouts [--rollouts 2048] [--runners 8] [--agents bare sdk]

A real server on a real (embedded) PostgreSQL; runners are `bench.rollout_runner`: the real worker, and around the SDK's
agents an environment that sleeps; the sampler computes nothing (`bench.stand_in_sampler`). All rollouts are submitted
over HTTP, in groups, and sleep until a moment at which all of them should be under way; when they are, or begin to end,
half of the runners get SIGKILL. Lost: a rollout without its one end. Doubled: one with more than its one sample.
Overhead: what a rollout that was played in one go took from its lease to its end, beyond its nap and its sample; and
from submission to lease where there was a free slot.

`alone` is the same without deaths, at the rate at which it goes: rollouts that take no time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import text

from bench.figures import write_figures
from bench.gateway import MODEL, child, cpu_s, free_port, furnish, gather_statistics, served
from server.auth.service import create_key
from store.database import AsyncDatabase, Database
from store.embedded import EmbeddedPostgres
from store.migrations import upgrade
from store.tables import EnvironmentBuildRow, EnvironmentRow

_GROUP = 8
_SUBMITTED_AT_ONCE = 64
_TIMEOUT_S = 900.0
_MOST_RETRIES = 5
_TASK = {"id": "nap", "args": {"type": "object", "properties": {"until": {"type": "number"}}}}

_PROGRESS = """
    select count(*) filter (where p.state = 'ended') as ended, count(*) filter (where p.state = 'running') as running
    from placements p join hosted_rollouts h on h.placement_id = p.id where h.job_id = :job
"""
_ENDS = """
    select p.outcome, p.attempt, t.status, t.reward, t.num_samples, h.group_id,
        extract(epoch from p.taken_at - p.created_at)::float as queued_s,
        extract(epoch from p.ended_at - p.taken_at)::float as played_s,
        greatest(0, (h.args::json ->> 'until')::float - extract(epoch from p.taken_at)::float) as slept_s,
        (select sum(s.seconds) from samples s where s.team_id = t.team_id and s.trace_id = t.id) as sampled_s
    from hosted_rollouts h join placements p on p.id = h.placement_id
    join traces t on t.team_id = h.team_id and t.id = h.trace_id
    where h.job_id = :job
"""


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=2048)
    parser.add_argument("--runners", type=int, default=8)
    parser.add_argument("--agents", nargs="+", default=["bare", "sdk"])
    parser.add_argument("--hold-s", type=float, default=180.0, help="from the first submission until they go on")
    parser.add_argument("--machine", default="", help="a word on the machine, for the figures")
    options = parser.parse_args()
    figures = {agents: _measured(agents, options) for agents in options.agents}
    settings = {name: getattr(options, name) for name in ("rollouts", "runners", "hold_s", "machine")}
    write_figures("rollouts", {**settings, **figures})


def _measured(agents: str, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="headway-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        sampler = f"http://127.0.0.1:{int(stack.enter_context(child(['-m', 'bench.stand_in_sampler'])))}"
        postgres = EmbeddedPostgres(folder / "postgres")
        stack.callback(postgres.stop)
        upgrade(postgres.url)
        keys = asyncio.run(furnished(postgres.url, [sampler]))
        heart = started([sys.executable, "-m", "bench.gateway", "--heart", postgres.url])
        stack.callback(killed, heart)
        url = f"http://127.0.0.1:{free_port()}"
        variables = {"HEADWAY_DATABASE_URL": postgres.url, "HEADWAY_SAMPLER_TOKEN": "token", "HEADWAY_GC_EVERY_S": "0"}
        variables["HEADWAY_DATA_DIR"] = str(folder)
        command = [sys.executable, "-m", "cli", "server", "--port", url.rpartition(":")[2]]
        server = stack.enter_context(served(command, variables, f"{url}/healthz", folder / "server.log"))
        database = int((folder / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        runners = [_runner(url, folder / f"runner-{n}", keys[1], options, agents) for n in range(options.runners)]
        for runner in runners:
            stack.callback(killed, runner)
        stage = _Stage(url, keys[0], Database(postgres.url), runners, {"server": server, "database": database})
        stage.carry_out(64)  # agents import the SDK, and PostgreSQL plans
        gather_statistics(postgres.url)
        calm = stage.carry_out(options.rollouts // 8)
        return {"alone": calm, "killed": stage.carry_out(options.rollouts, options.hold_s, kill=options.runners // 2)}


async def furnished(database_url: str, samplers: list[str]) -> tuple[str, str]:
    """The keys of a member and of runners, and the environment as if it had been built."""
    key = await furnish(database_url, samplers)
    database = AsyncDatabase(database_url)
    async with database.session() as session:
        runner_key = await create_key(session, "runners", "bench", role="runner")
        environment = EnvironmentRow(team_id=None, name="sleeping", declared_name="sleeping", next_version=2)
        session.add(environment)
        await session.flush()
        build = EnvironmentBuildRow(state="succeeded", source="folder", environment_id=environment.id, version=1)
        build.declared_name, build.manifest = "sleeping", {"tasks": [_TASK], "capabilities": []}
        session.add(build)
        await session.flush()
        environment.current_build_id = build.id
    await database.close()
    return key, runner_key


def _runner(url: str, folder: Path, key: str, options: argparse.Namespace, agents: str) -> subprocess.Popen[bytes]:
    folder.mkdir()
    slots = -(-options.rollouts // options.runners)
    return started([sys.executable, "-m", "bench.rollout_runner", url, str(folder), str(slots), agents], key)


def started(command: list[str], line: str = "") -> subprocess.Popen[bytes]:
    """In a group of its own, so that all of it can be killed. `line`: what it reads first."""
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=null, stderr=null, start_new_session=True)
    assert process.stdin is not None
    process.stdin.write(f"{line}\n".encode())
    process.stdin.flush()
    return process


def killed(process: subprocess.Popen[bytes]) -> None:
    """It and what it started, as when a machine goes."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class _Stage:
    """A service with its runners, and one set of rollouts after the other."""

    def __init__(
        self,
        url: str,
        key: str,
        database: Database,
        runners: Sequence[subprocess.Popen[bytes]],
        pids: dict[str, int],
    ) -> None:
        self._url, self._key, self._database = url, key, database
        self._runners, self._pids = runners, pids
        self._refusals = Counter[str]()

    def carry_out(self, num_rollouts: int, hold_s: float = 0.0, kill: int = 0) -> dict[str, Any]:
        """Submit, wait for the end of all, and say what became of them."""
        job, before = uuid.uuid4(), {name: cpu_s(pid) for name, pid in self._pids.items()}
        runners_before = sum(cpu_s(runner.pid) for runner in self._runners)
        self._refusals.clear()
        began = time.monotonic()
        asyncio.run(self._submit(job, num_rollouts, time.time() + hold_s))
        submitted_s = time.monotonic() - began
        most_running, killed_s, to_kill = 0, None, list(self._runners[:kill])
        while True:
            ended, running = self._rows(_PROGRESS, job)[0]
            most_running = max(most_running, running)
            if ended == num_rollouts:
                break
            if to_kill and (running == num_rollouts or ended >= num_rollouts // 8):
                killed_s = time.monotonic() - began
                for runner in to_kill:
                    killed(runner)
                to_kill = []
            if time.monotonic() - began > _TIMEOUT_S:
                break
            time.sleep(0.25)
        wall_s = time.monotonic() - began
        spent = {name: cpu_s(pid) - before[name] for name, pid in self._pids.items()}
        if not kill:
            spent["runners"] = sum(cpu_s(runner.pid) for runner in self._runners) - runners_before
        return {
            "rollouts": num_rollouts,
            "wall_s": round(wall_s, 1),
            "submitted_in_s": round(submitted_s, 1),
            "rollouts_per_s": round(num_rollouts / wall_s, 1),
            "most_running_at_once": most_running,
            "killed_runners": kill,
            "killed_after_s": None if killed_s is None else round(killed_s, 1),
            "submissions_sent_again": dict(self._refusals),
            **_verdict(self._rows(_ENDS, job), num_rollouts),
            "cpu_ms_per_rollout": {name: round(seconds * 1e3 / num_rollouts, 1) for name, seconds in spent.items()},
        }

    async def _submit(self, job: uuid.UUID, num_rollouts: int, until: float) -> None:
        headers, room = {"Authorization": f"Bearer {self._key}"}, asyncio.Semaphore(_SUBMITTED_AT_ONCE)
        config = {"model": MODEL, "max_steps": 1}
        async with httpx.AsyncClient(base_url=self._url, headers=headers, timeout=120, trust_env=False) as http:

            async def submit(number: int) -> None:
                body = {
                    "trace_id": str(uuid.uuid4()),
                    "job_id": str(job),
                    "group_id": f"{number // _GROUP:032x}",
                    "env": "sleeping",
                    "task": "nap",
                    "args": {"until": until},
                    "agent": {"type": "openai_compatible", "config": config},
                }
                async with room:
                    await self._taken(http, body)

            (await http.post(f"/v2/trace/job/{job.hex}/enter", json={"name": "bench"})).raise_for_status()
            await asyncio.gather(*map(submit, range(num_rollouts)))

    async def _taken(self, http: httpx.AsyncClient, body: dict[str, Any]) -> None:
        """As the SDK does it: what is answered with 503 is sent again."""
        for _ in range(_MOST_RETRIES):
            reply = await http.post("/v2/rollouts/submit", json=body)
            if reply.status_code != 503:
                break
            self._refusals[reply.json()["detail"]] += 1
            await asyncio.sleep(float(reply.headers["retry-after"]))
        assert reply.is_success, reply.text

    def _rows(self, query: str, job: uuid.UUID) -> list[Any]:
        with self._database.session() as session:
            return list(session.execute(text(query), {"job": job}).all())


def _verdict(rows: Sequence[Any], num_rollouts: int) -> dict[str, Any]:
    good = [row for row in rows if row.outcome == "completed" and row.status == "completed" and row.reward == 1.0]
    groups = Counter(row.group_id for row in good)
    at_first = [row for row in good if row.attempt == 1]
    beyond = [row.played_s - row.slept_s - (row.sampled_s or 0.0) for row in at_first]
    return {
        "lost": num_rollouts - len(good),
        "doubled": sum(row.num_samples != 1 for row in good),
        "complete_groups": sum(count == _GROUP for count in groups.values()),
        "groups": -(-num_rollouts // _GROUP),
        "attempts": dict(sorted(Counter(row.attempt for row in rows).items())),
        "queued_s": _quantiles([row.queued_s for row in at_first]),
        "overhead_s": _quantiles(beyond),
    }


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    if len(values) < 2:
        return {}
    cuts = statistics.quantiles(values, n=100)
    return {"p50": round(cuts[49], 3), "p99": round(cuts[98], 3)}


if __name__ == "__main__":
    main()
