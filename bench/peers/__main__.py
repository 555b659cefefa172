"""Headway beside what others offer, on one random Qwen3 of 4.2 million parameters: `python -m bench.peers`.

Whole steps, forward_backward and optim_step, of the same rows and loss, LoRA of rank 16 on all linear layers. Each
contender is installed from the package registry at first, into an environment of its own under .headway-cache/peers
(3 GB), started once, and asked for a step a round by a client in a process of its own; the services through the
`tinker` SDK that their package takes. Before its rounds each computes the batch with a model that made no step:
who has another logprob or loss than the base itself is out. Processor time and memory are those of all processes of a
contender, its client apart. Prints a table a workload and load, then one JSON line; `--out` has after each table what
was found until then. Progress, with the latest end, goes to stderr.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.busy_loops import busy_loops
from bench.clock import say
from bench.figures import machine, save_figures, write_figures
from bench.models import build_model
from bench.peers.base import base_config, make_base
from bench.peers.contender import Failed, Running
from bench.peers.contenders import ABSENT, CONTENDERS
from bench.peers.environments import NotInstalled
from bench.peers.race import Found, far_behind, race_rounds, warm_up
from bench.peers.report import differences, table, to_json
from bench.peers.schedule import Schedule
from bench.peers.workloads import WORKLOADS, Workload, make_rows

IDLE, BUSY = "idle", "busy"
_MOST_STARTS = 3


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # through __exit__, which ends them all
    options = _options()
    contenders = [CONTENDERS[name] for name in options.contenders]
    loads = {IDLE: [IDLE], BUSY: [BUSY], "both": [IDLE, BUSY]}[options.load]
    absent, figures = dict(ABSENT), {load: dict[str, Any]() for load in loads}
    schedule = Schedule(options.minutes, len(options.workloads) * len(loads))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headway-peers-")))
        folder.chmod(0o755)  # PostgreSQL's own user goes through it
        make_base(folder / "base", base_config())
        running = {one.name: stack.enter_context(Running(folder, one)) for one in contenders}
        for load, name, title, found, before in _tables(options, loads, running, folder, absent, schedule):
            print(table(title, found) + "\n", flush=True)
            after = machine()["load_after"]
            figures[load][name] = {"load_before": before, "load_after": after, "contenders": to_json(found)}
            say(schedule.progress())
            if options.out:
                save_figures("peers", _all(options, absent, figures), options.out)
        is_any_up = any(one.is_up for one in running.values())
    print(differences(contenders, absent))
    write_figures("peers", _all(options, absent, figures), options.out)
    return 0 if is_any_up else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="at most")
    parser.add_argument("--minutes", type=float, default=22, help="then rounds get fewer, two at least (default 22)")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="NAME")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NAME")
    parser.add_argument("--load", choices=[IDLE, BUSY, "both"], default="both", help="busy: beside endless loops")
    parser.add_argument("--loops", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, help="file for the figures, written after each table")
    return parser.parse_args()


def _all(options: argparse.Namespace, absent: Mapping[str, str], figures: Mapping[str, Any]) -> dict[str, Any]:
    return {"rounds": options.rounds, "loops": options.loops, "absent": dict(absent), **figures}


def _tables(
    options: argparse.Namespace,
    loads: list[str],
    running: Mapping[str, Running],
    folder: Path,
    absent: dict[str, str],
    schedule: Schedule,
) -> Iterator[tuple[str, str, str, dict[str, Found], list[float]]]:
    """Load, workload, title, what was found, and the load averages before; each workload is warmed up once."""
    base = build_model(base_config())
    for name in options.workloads:
        workload, path = WORKLOADS[name], folder / "rows.json"
        rows = make_rows(base, workload.shape)
        rows.save(path)
        say(f"{name}: warm-up")
        able = _able(running, workload, absent)
        warm = warm_up(workload, rows, str(path), able)
        for load in loads:
            say(f"{name}, {load}")
            before = machine()["load_after"]
            with busy_loops(options.loops if load == BUSY else 0), schedule.place() as deadline:
                found = race_rounds(workload, able, warm, options.rounds, deadline)
            for left, reason in far_behind(found, name).items():
                say(f"  {left}: {reason}")
                running[left].end()
                running[left].trouble = absent[left] = warm[left] = reason
            title = _title(name, load, workload, len(rows.rows), rows.num_tokens)
            yield load, name, title, found | _unable(running, able), before


def _able(running: Mapping[str, Running], workload: Workload, absent: dict[str, str]) -> dict[str, Running]:
    """Those who take part: who died or hung in the last workload is started again."""
    fit = {name: one for name, one in running.items() if workload.models <= CONTENDERS[name].max_models}
    return {name: one for name, one in fit.items() if name not in absent and _is_up(one, absent)}


def _is_up(one: Running, absent: dict[str, str]) -> bool:
    """Whether it is, or could be started. Who does not start is tried again before the next workload: a busy machine
    may be the reason."""
    if one.is_up:
        return True
    say(f"  {one.contender.name}: starting")
    try:
        one.start()
    except (NotInstalled, Failed) as reason:
        one.end()
        one.trouble = str(reason)
        say(f"  {one.contender.name}: {reason}")
        if isinstance(reason, NotInstalled) or one.starts == _MOST_STARTS:
            absent[one.contender.name] = one.trouble
        return False
    return True


def _unable(running: Mapping[str, Running], able: Mapping[str, Running]) -> dict[str, Found]:
    others = {name: one for name, one in running.items() if name not in able}
    return {name: Found(missing=one.trouble or "one model a process") for name, one in others.items()}


def _title(name: str, load: str, workload: Workload, num_rows: int, num_tokens: int) -> str:
    sequences = f"{num_rows} sequence{'s' if num_rows > 1 else ''} of {num_tokens} tokens"
    models = f" for each of {workload.models} models" if workload.models > 1 else ""
    return f"{name}, {load}: {sequences}{models}"


if __name__ == "__main__":
    sys.exit(main())
