"""Rounds of one workload: each contender once a round, forwards and backwards in turn, so that a slow minute of the
machine befalls all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.clock import say
from bench.peers.contender import Failed, Running
from bench.peers.workloads import Rows, Workload

MAX_LOSS_ERROR, MAX_LOGPROB_ERROR = 1e-3, 1e-3
_REST_S = 2.0
_LEAST_ROUNDS = 2
_LONGEST_ROUND_S = 60.0
"""Who takes longer is out of the workload: it would take the time of all others."""
_FAR_BEHIND = 20


@dataclass(slots=True)
class Found:
    """Of one contender in one workload. seconds, cpu_s: of a step (of all models), one entry a round. MiB: proportional
    memory of all its processes, the most during a step, and at rest after it. missing: why there is nothing more."""

    seconds: list[float] = field(default_factory=list[float])
    cpu_s: list[float] = field(default_factory=list[float])
    peak_mib: float = 0.0
    rest_mib: float = 0.0
    missing: str = ""


def warm_up(workload: Workload, rows: Rows, path: str, running: Mapping[str, Running]) -> dict[str, str]:
    """Each computes the batch with an untrained model, and makes a step, compiling what it compiles. Returns why those
    who cannot take part cannot. path: where the rows are saved."""
    reasons = dict[str, str]()
    for name, one in running.items():
        started = time.perf_counter()
        found = Found()
        _guarded(found, one, lambda one=one: _warm_up(one, workload, rows, path))
        if found.missing:
            reasons[name] = found.missing
        say(f"  {name}: {time.perf_counter() - started:.1f} s")
    return reasons


def race_rounds(
    workload: Workload,
    running: Mapping[str, Running],
    out: dict[str, str],
    rounds: int,
    is_over: Callable[[], bool],
) -> dict[str, Found]:
    """At most so many rounds, and no more than two once the time is over. out: who is out of this workload, and why;
    those who fail or are too slow here are added to it."""
    found = {name: Found(missing=out.get(name, "")) for name in running}
    for index in range(rounds):
        if index >= _LEAST_ROUNDS and is_over():
            say(f"  {index} rounds: the time is over")
            break
        for name in list(running)[:: 1 if index % 2 == 0 else -1]:
            _guarded(found[name], running[name], lambda name=name: _timed(found[name], running[name], workload))
            if not found[name].missing:
                say(f"  round {index + 1}/{rounds} {name}: {found[name].seconds[-1]:.3f} s a step")
    for name in running:
        _guarded(found[name], running[name], lambda name=name: _measure_memory(found[name], running[name], workload))
    out |= {name: one.missing for name, one in found.items() if one.missing}
    return found


def far_behind(found: Mapping[str, Found], workload: str) -> dict[str, str]:
    """Who took so many times the fastest one's time that all later tables would have two rounds for its sake, with what
    to say instead of its figures there."""
    medians = {name: statistics.median(one.seconds) for name, one in found.items() if one.seconds}
    fastest = min(medians.values(), default=0.0)
    times = {name: seconds / fastest for name, seconds in medians.items() if seconds > _FAR_BEHIND * fastest}
    return {name: f"left out after {workload!r}: {ratio:.0f} times the fastest there" for name, ratio in times.items()}


def check(answer: Mapping[str, Any], rows: Rows) -> None:
    """Of a model that made no step. Raises Failed if the logprob of a sampled token, or the loss, is not the base's."""
    loss = float(answer["loss"]) if "loss" in answer else _loss(answer["logprobs"], rows)
    expected = rows.loss(rows.base_logprobs)
    if not abs(loss - expected) <= MAX_LOSS_ERROR * max(1.0, abs(expected)):
        raise Failed(f"computes something else: its loss is {loss:.5g}, not {expected:.5g}")


def _warm_up(running: Running, workload: Workload, rows: Rows, path: str) -> None:
    running.ask("load", path=path)
    check(running.ask("check"), rows)
    running.ask("step", models=workload.models, pipelined=workload.pipelined)


def _timed(found: Found, running: Running, workload: Workload) -> None:
    before = running.cpu_s()
    step = {"models": workload.models, "pipelined": workload.pipelined}
    seconds = [running.ask("step", _LONGEST_ROUND_S, **step)["seconds"] for _ in range(workload.steps)]
    if sum(seconds) > _LONGEST_ROUND_S:
        raise Failed(f"too slow: {sum(seconds) / workload.steps:.1f} s a step")
    found.seconds.append(sum(seconds) / workload.steps)
    found.cpu_s.append((running.cpu_s() - before) / workload.steps)


def _measure_memory(found: Found, running: Running, workload: Workload) -> None:
    found.peak_mib = running.peak_mib("step", models=workload.models, pipelined=workload.pipelined)
    time.sleep(_REST_S)
    found.rest_mib = running.memory_mib()


def _guarded(found: Found, running: Running, call: Callable[[], None]) -> None:
    """A contender whose answer did not come is ended: what it still computes would slow the others, and its answer
    would be taken for the next one's."""
    if found.missing:
        return
    try:
        call()
    except Failed as reason:
        found.missing = str(reason)
        say(f"  {running.contender.name}: {reason}")
        if running.owes_answer:
            running.end()


def _loss(logprobs: list[list[float]], rows: Rows) -> float:
    found = [torch.tensor(row) for row in logprobs]
    pairs = zip(found, rows.base_logprobs, rows.rows, strict=True)
    off = max(float((one - other)[row.is_action_T[1:]].abs().max()) for one, other, row in pairs)
    if not off <= MAX_LOGPROB_ERROR:
        raise Failed(f"computes something else: a logprob is off by {off:.1e}")
    return rows.loss(found)
