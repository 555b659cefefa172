"""What the server's own book-keeping costs a request: metrics, access log, the look at keys, traces.

    python -m bench.request_cost --out bench/results/request-cost-2-cores.json

Calls a bare ASGI endpoint that answers two bytes, and the same behind each of the server's layers, without sockets or
a database. Processor microseconds a request of the thread that serves, the least of several interleaved rounds, for
other work on the machine only ever adds. Counters are measured in memory (one process) and in files (what several
workers share), spans with an exporter that finds nobody: exporting is another thread's work.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import logging
import os
import pstats
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bench.figures import write_figures

ROUNDS, REQUESTS = 9, 2000
VARIABLES = {"memory": None, "files": "PROMETHEUS_MULTIPROC_DIR", "traced": "OTEL_EXPORTER_OTLP_ENDPOINT"}
HEADERS = [
    (b"host", b"127.0.0.1:8420"),
    (b"authorization", b"Bearer hw_" + b"k" * 43),
    (b"content-type", b"application/json"),
    (b"content-length", b"120"),
    (b"user-agent", b"python-httpx/0.28.1"),
    (b"accept", b"*/*"),
    (b"trace-id", b"ab" * 16),
]


async def _endpoint(scope: Any, _receive: Any, send: Any) -> None:
    scope["route"] = SimpleNamespace(path="/v1/chat/completions")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b"{}"})


async def _receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(_message: Any) -> None:
    pass


async def _requests(app: Any, number: int) -> float:
    """Processor microseconds a request."""
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"", "headers": HEADERS}
    started = time.thread_time()
    for _ in range(number):
        await app(dict(scope), _receive, _send)
    return (time.thread_time() - started) / number * 1e6


def _layers() -> dict[str, Any]:
    """Each alone, and all as the server has them. Imported late: prometheus_client reads its environment then."""
    from server.http.access_log import AccessLog
    from server.http.request_body import SealedBodies
    from server.http.request_metrics import MeasuredRequests
    from server.metrics.instruments import ServerMetrics
    from server.process.settings import Limits

    return {
        "bare": _endpoint,
        "sealed bodies": SealedBodies(_endpoint, Limits()),
        "access log": AccessLog(_endpoint),
        "metrics": MeasuredRequests(_endpoint, ServerMetrics()),
        "all": MeasuredRequests(AccessLog(SealedBodies(_endpoint, Limits())), ServerMetrics()),
    }


def _measure(profile: bool) -> dict[str, float]:
    """Of this process's environment: by layer, what it adds."""
    from wire.process.logging import configure_logging
    from wire.process.tracing import configure_tracing

    with Path(os.devnull).open("w") as nowhere:
        sys.stderr = nowhere
        configure_logging("server", "json")
        configure_tracing("server")
        layers = _layers()
        least = {name: float("inf") for name in layers}
        for _ in range(ROUNDS):
            for name, app in layers.items():
                least[name] = min(least[name], asyncio.run(_requests(app, REQUESTS)))
        if profile:
            profiler = cProfile.Profile()
            profiler.runcall(asyncio.run, _requests(layers["all"], 5 * REQUESTS))
            pstats.Stats(profiler, stream=sys.__stderr__).sort_stats("tottime").print_stats(25)
        logging.disable()  # of the exporter, which finds nobody
        sys.stderr = sys.__stderr__
    return {name: round(took - (least["bare"] if name != "bare" else 0.0), 1) for name, took in least.items()}


def main() -> int:
    """Run each variant in a process of its own; a table, and the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.request_cost", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="for the figures as JSON")
    parser.add_argument("--profile", action="store_true", help="say where the time of all layers goes")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        print(json.dumps(_measure(args.profile)))
        return 0
    found = dict[str, dict[str, float]]()
    for name, variable in VARIABLES.items():
        with tempfile.TemporaryDirectory() as folder:
            value = "http://127.0.0.1:9" if name == "traced" else folder
            environment = {**os.environ, **({variable: value} if variable else {})}
            command = [sys.executable, "-m", "bench.request_cost", "--here", *(["--profile"] if args.profile else [])]
            told = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout
        found[name] = json.loads(told.splitlines()[-1])
        print(f"{name:<8}" + "".join(f"  {layer} {took:.1f} µs" for layer, took in found[name].items()), flush=True)
    write_figures("request_cost", {"rounds": ROUNDS, "requests": REQUESTS, "microseconds": found}, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
