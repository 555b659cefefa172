"""Headway beside what others offer, on one random Qwen3 of 4.2 million parameters: `python -m bench.peers`.

Whole steps, forward_backward and optim_step, of the same rows and loss, LoRA of rank 16 on all linear layers. Each
contender is installed from the package registry at first, into an environment of its own under .headway-cache/peers
(3 GB), started once, and asked for a step a round by a client in a process of its own; the services through the
`tinker` SDK that their package takes. Before its rounds each computes the batch with a model that made no step:
who has another logprob or loss than the base itself is out. Processor time and memory are those of all processes of a
contender, its client apart. Prints a table a workload, then one JSON line; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import torch

from bench.busy_loops import busy_loops
from bench.clock import say
from bench.models import build_model
from bench.peers.base import base_config, make_base
from bench.peers.contender import Contender, Failed, Place, Running
from bench.peers.contenders import ABSENT, CONTENDERS
from bench.peers.environments import NotInstalled
from bench.peers.race import Found, race
from bench.peers.report import differences, table, to_json
from bench.peers.workloads import WORKLOADS, Rows, Workload, make_rows

IDLE, BUSY = "idle", "busy"


def main() -> int:
    options = _options()
    contenders = [CONTENDERS[name] for name in options.contenders]
    loads = {IDLE: [IDLE], BUSY: [BUSY], "both": [IDLE, BUSY]}[options.load]
    absent = dict(ABSENT)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headway-peers-")))
        folder.chmod(0o755)  # PostgreSQL's own user goes through it
        make_base(folder / "base", base_config())
        running = {one.name: stack.enter_context(Running(_place(folder, one))) for one in contenders}
        running = {one.name: running[one.name] for one in contenders if _starts(one, running[one.name], absent)}
        figures = {load: _race_all(options, load, running, folder) for load in loads}
    print(differences(contenders, absent))
    about = {"cores": len(os.sched_getaffinity(0)), "torch": torch.__version__, "rounds": options.rounds}
    print(json.dumps({"bench": "peers", **about, "absent": absent, **figures}))
    return 0 if running else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="NAME")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NAME")
    parser.add_argument("--load", choices=[IDLE, BUSY, "both"], default="both", help="busy: beside endless loops")
    parser.add_argument("--loops", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()


def _place(folder: Path, contender: Contender) -> Place:
    own = folder / contender.name
    own.mkdir()
    return Place(folder / "base", own)


def _starts(contender: Contender, running: Running, absent: dict[str, str]) -> bool:
    say(f"{contender.name}: starting")
    try:
        contender.start(running.place, running)
    except (NotInstalled, Failed) as reason:
        absent[contender.name] = str(reason)
        say(f"{contender.name}: {reason}")
        return False
    return True


def _race_all(
    options: argparse.Namespace, load: str, running: Mapping[str, Running], folder: Path
) -> dict[str, object]:
    base, figures = build_model(base_config()), dict[str, object]()
    for name in options.workloads:
        rows, path = make_rows(base, WORKLOADS[name].shape), folder / "rows.json"
        rows.save(path)
        say(f"{name}, {load}")
        with busy_loops(options.loops if load == BUSY else 0):
            found = _race(WORKLOADS[name], rows, path, running, options.rounds)
        before = round(os.getloadavg()[0], 1)
        print(table(_title(name, load, WORKLOADS[name], rows), found) + "\n", flush=True)
        figures[name] = {"tokens": rows.num_tokens, "load_average": before, "contenders": to_json(found)}
    return figures


def _race(workload: Workload, rows: Rows, path: Path, running: Mapping[str, Running], rounds: int) -> dict[str, Found]:
    able = {name: one for name, one in running.items() if workload.models <= CONTENDERS[name].max_models}
    unable = {name: Found(missing="one model a process") for name in running if name not in able}
    return race(workload, rows, str(path), able, rounds) | unable


def _title(name: str, load: str, workload: Workload, rows: Rows) -> str:
    sequences = f"{len(rows.rows)} sequence{'s' if len(rows.rows) > 1 else ''} of {rows.num_tokens} tokens"
    models = f" for each of {workload.models} models" if workload.models > 1 else ""
    return f"{name}, {load}: {sequences}{models}"


if __name__ == "__main__":
    sys.exit(main())
