"""A hundred thousand recorded rollouts of eight turns: lists, training by id, ingest, and what they take.

    python -m bench.traces [--traces 100000] [--write bench/results/traces-2-cores.json]
    python -m bench.traces --traces 0 --large 3000


A real server on a real (embedded) PostgreSQL, clients in a process of their own (`bench.trace_clients`). The mass of
the rollouts is copied inside the database (`bench.trace_corpus`); ingest is measured through the upload endpoint and
through the gateway's recorder. "Tokens as sent" counts each turn's prompt whole, as clients send it. `--large`: so many
uploads of 4 MiB, as large as the SDK makes them, and what completions wait meanwhile (`bench.large_uploads`); a
thousand of them take 0.6 GB of the folder for temporary files. `--traces 0`: these alone.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import structlog
import uvloop

from bench.bars import Bar
from bench.clock import say
from bench.figures import write_figures
from bench.large_uploads import measure_large_uploads
from bench.trace_corpus import JOB, MODEL, fill, make_rollout, numbered, served_samples
from bench.trace_place import Place, client, client_process, lags, open_place
from server.sampling.recorder import Recorder
from server.sampling.recorder import Served as Completion
from store.embedded import EmbeddedPostgres
from store.migrations import upgrade
from store.rollouts import resolve

PAGE_MS, RESOLVE_MS, BATCH = 50.0, 200.0, 64
LAG_MS, LONGEST_LAG_MS = 10.0, 50.0
TABLES = ("traces", "samples", "spans")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=int, default=100_000)
    parser.add_argument("--templates", type=int, default=200)
    parser.add_argument(
        "--ingest", type=int, default=2000, help="rollouts through the upload endpoint, and the recorder"
    )
    parser.add_argument("--large", type=int, default=40, help="uploads of 4 MiB")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--write", type=Path, help="a file for the figures")
    parser.add_argument("--machine", default="", help="a word on the machine, for the figures")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory(prefix="headway-bench-") as folder:
        figures = uvloop.run(_measured(Path(folder), options))
    settings = {"machine": options.machine, "traces": options.traces}
    write_figures("traces", {**settings, **figures}, options.write)


async def _measured(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    postgres = EmbeddedPostgres(folder / "postgres")
    try:
        upgrade(postgres.url)
        async with open_place(postgres.url, folder / "blobs") as place:
            gc.freeze()  # this, the loop and the threshold as in `server.main`
            gc.set_threshold(20_000, 10, 1_000)
            if not options.traces:
                return await _large(place, options)
            return await _figures(place, options)
    finally:
        postgres.stop()


async def _figures(place: Place, options: argparse.Namespace) -> dict[str, Any]:
    started = time.perf_counter()
    await fill(place.database, place.blobs, place.team_id, options.traces, options.templates)
    say(f"{options.traces} rollouts are there after {time.perf_counter() - started:.0f} s")
    size = await _size(place)
    say(f"  {size}")
    pages = await _pages(place, options)
    resolving = await _resolving(place, options)
    uploads = await _uploads(place, options.ingest)
    say(f"  uploads {uploads}")
    recorder = await _recorder(place, options.ingest)
    say(f"  recorder {recorder}")
    large = await _large(place, options)
    bars = [Bar(f"ms, a page of {name}", one["p50"], PAGE_MS, at_least=False) for name, one in pages.items()]
    bars.append(Bar(f"ms, resolving {BATCH} ids", resolving["p50"], RESOLVE_MS, at_least=False))
    for bar in bars:
        print(bar.line())
    return {
        "pages_ms": pages,
        "resolving_ms": resolving,
        "upload_endpoint": uploads,
        "gateway_recorder": recorder,
        **large,
        "size": size,
        "bars": [bar.to_json() for bar in bars],
    }


async def _large(place: Place, options: argparse.Namespace) -> dict[str, Any]:
    large = await measure_large_uploads(place, options.large)
    say(f"  large uploads {large}")
    lag = large["event_loop_lag_ms"]
    bars = [Bar("ms, lag of the event loop, one in 100", lag["p99"], LAG_MS, at_least=False)]
    bars.append(Bar("ms, lag of the event loop, the worst", lag["max"], LONGEST_LAG_MS, at_least=False))
    for bar in bars:
        print(bar.line())
    return {"uploads_of_4_mib": {**large, "bars": [bar.to_json() for bar in bars]}}


async def _pages(place: Place, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    last = options.traces - 1
    async with place.database.connection() as connection:
        query = "select min(created_at) from traces where team_id = %(team_id)s"
        (oldest,) = (await (await connection.execute(query, {"team_id": place.team_id})).fetchone()) or (None,)
    half = (oldest + (await _now(place) - oldest) / 2).strftime("%Y-%m-%dT%H:%M:%SZ")
    model, job = numbered("model", last // MODEL), numbered("job", last // JOB // 2)
    filters = {
        "all": "",
        "a model": f"model_id={model}",
        "a model unknown": f"model_id={uuid4()}",
        "a job": f"job_id={job}",
        "a group": f"group_id=group-{last // 16}",
        "a task": "task_slug=task-77",
        "a checkpoint": f"checkpoint_id={numbered('checkpoint', 3)}",
        "rewards, many": "min_reward=0.5",
        "rewards, few": "min_reward=1.0",
        "rewards, none": "min_reward=2",
        "running": "status=running",
        "completed": "status=completed",
        "cancelled": "status=cancelled",
        "error": "status=error",
        "since": f"since={half}",
        "until": f"until={half}",
        "without samples": "has_samples=false",
        "with samples": "has_samples=true",
        "a model, cancelled, few rewards": f"model_id={model}&status=cancelled&min_reward=0.99",
    }
    paths = {name: f"/v2/traces?limit=20&{query}" for name, query in filters.items()}
    paths |= {"all, 100 rows": "/v2/traces?limit=100", "jobs": "/v2/jobs?limit=20", "a job's": f"/v2/jobs/{job}/traces"}
    seen = await client(place, kind="pages", paths=list(paths.values()), rounds=options.rounds)
    found = dict[str, dict[str, float]]()
    for name, path in paths.items():
        times = sorted(seen["ms"][path][1:])  # the first one plans
        found[name] = {
            "p50": round(statistics.median(times), 2),
            "max": round(times[-1], 2),
            "rows": seen["rows"][path],
        }
        say(f"  {name}: {found[name]}")
    return found


async def _resolving(place: Place, options: argparse.Namespace) -> dict[str, float]:
    """Of ids from all over the table: no two batches share one."""
    async with place.database.connection() as connection:
        query = "select id from traces where team_id = %(team_id)s and num_samples > 0 order by id limit 5000"
        ids = [row.id async for row in await connection.execute(query, {"team_id": place.team_id})]
    random.Random(0).shuffle(ids)
    times = list[float]()
    for index in range(min(options.rounds, len(ids) // BATCH)):
        batch = ids[index * BATCH : (index + 1) * BATCH]
        started = time.perf_counter()
        resolved = await resolve(place.database, place.blobs, place.team_id, batch)
        times.append((time.perf_counter() - started) * 1e3)
        assert all(len(one.samples) == 8 for one in resolved.values())
    found = {"p50": round(statistics.median(times), 1), "max": round(max(times), 1), "ids": BATCH}
    say(f"  resolving {found}")
    return found


async def _uploads(place: Place, count: int) -> dict[str, Any]:
    """Rates of the upload endpoint, and how late the event loop was meanwhile."""
    rng = random.Random()
    async with client_process(place, kind="uploads", count=count, seed=rng.random()) as sender:
        await sender.stdout.readline()
        quiet = await lags(asyncio.create_task(asyncio.sleep(2)))
        sender.stdin.write(b"\n")
        line = asyncio.create_task(sender.stdout.readline())
        busy = await lags(line)
        seen = json.loads(line.result())
    seconds = seen["seconds"]
    return {
        "traces": seen["traces"],
        "mb_each": round(seen["bytes"] / seen["traces"] / 1e6, 2),
        "traces_per_s": round(seen["traces"] / seconds, 1),
        "tokens_as_sent_per_s": round(seen["tokens_as_sent"] / seconds),
        "mb_per_s": round(seen["bytes"] / seconds / 1e6, 1),
        "event_loop_lag_ms": busy,
        "event_loop_lag_ms_before": quiet,
    }


async def _recorder(place: Place, count: int) -> dict[str, float]:
    """Rollouts turn by turn through the gateway's recorder, 256 at once, each turn when the one before is on record."""
    rng, made = random.Random(), list[Any]()
    for _ in range(count):
        rollout = make_rollout(rng)
        made.append((rollout.trace_id, served_samples(place.team_id, rollout, rollout.trace_id)))
    tokens = [len(one.turn.prompt_ids) + len(one.turn.output_ids) for _, samples in made for one in samples]
    recorder = Recorder(place.database, place.blobs, patience_s=120.0)
    recorder.start()

    async def play() -> None:
        while made:
            trace_id, samples = made.pop()
            for sample in samples:
                num_bytes = sample.num_bytes
                await recorder.keep(Completion(place.team_id, trace_id, "bench", num_bytes, lambda one=sample: [one]))

    started = time.perf_counter()
    await asyncio.gather(*(play() for _ in range(256)))
    seconds = time.perf_counter() - started
    assert recorder.num_lost == 0
    await recorder.close()
    return {
        "completions_per_s": round(recorder.num_recorded / seconds, 1),
        "traces_per_s": round(count / seconds, 1),
        "tokens_as_sent_per_s": round(sum(tokens) / seconds),
    }


async def _size(place: Place) -> dict[str, float]:
    """Bytes in the database, indexes included, of both roads; and of the spans alone as rows of JSON, as they came."""
    rng = random.Random(0)
    made = [make_rollout(rng) for _ in range(100)]
    as_sent = sum(len(turn.prompt_ids) + len(turn.output_ids) for one in made for turn in one.turns) / len(made)
    distinct = sum(len(one.turns[-1].prompt_ids) + len(one.turns[-1].output_ids) for one in made) / len(made)
    async with place.database.connection() as connection:
        await connection.execute("create table bench_json (trace_id uuid, span_id text, span jsonb)")
        rows = [(one.trace_id, span["span_id"], json.dumps(span)) for one in made for span in one.spans]
        async with connection.cursor() as cursor:
            await cursor.executemany("insert into bench_json values (%s, %s, %s)", rows)

        async def size_of(table: str) -> int:
            row = await (await connection.execute("select pg_total_relation_size(%s::regclass)", [table])).fetchone()
            return row[0]

        ours = {table: await size_of(table) for table in TABLES}
        json_bytes = await size_of("bench_json") / len(made)
        row = await (await connection.execute("select count(*) from traces")).fetchone()
        num_traces = row[0]
    each = {table: round(size / num_traces) for table, size in ours.items()}
    total = sum(ours.values()) / num_traces
    return {
        "bytes_a_trace": each,
        "tokens_a_trace_as_sent": as_sent,
        "tokens_a_trace_distinct": distinct,
        "bytes_per_token_as_sent": round(total / as_sent, 2),
        "bytes_per_distinct_token": round(total / distinct, 2),
        "samples_bytes_per_distinct_token": round(ours["samples"] / num_traces / distinct, 2),
        "json_rows_bytes_per_token_as_sent": round(json_bytes / as_sent, 2),
        "json_rows_bytes_per_distinct_token": round(json_bytes / distinct, 2),
        "upload_bytes_per_token_as_sent": round(sum(len(one.upload()) for one in made) / len(made) / as_sent, 2),
        "times_smaller_than_json_rows": round(json_bytes / total, 1),
    }


async def _now(place: Place) -> Any:
    async with place.database.connection() as connection:
        row = await (await connection.execute("select now()")).fetchone()
    return row[0]


if __name__ == "__main__":
    main()
