"""A grader's program, in a process of its own: it runs with the environment's isolation, and within bounds besides."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import sys
from typing import Any

from runner.environments.builtin.failures import GradingFailed

TIMEOUT_S = 120.0
MEMORY_BYTES = 2 * 1024**3
_MOST_RESULT = 4096
_MOST_SHOWN = 500

_CHILD = """
import json, os, resource, sys
for what, most in ((resource.RLIMIT_AS, %d), (resource.RLIMIT_CPU, %d), (resource.RLIMIT_CORE, 0)):
    resource.setrlimit(what, (most, most))
asked = json.load(sys.stdin)
result = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
names = {"__name__": "grader"}
exec(compile(asked["source"], "grader.py", "exec"), names)
score = names["grade"](asked["sample"], asked["item"])
result.write(json.dumps(float(score)))
result.flush()
os._exit(0)
"""
"""What it prints goes to its stderr; its score is what stands on the stdout that the process began with."""


async def run(
    source: str,
    sample: dict[str, Any],
    item: dict[str, Any],
    timeout_s: float = TIMEOUT_S,
    memory_bytes: int = MEMORY_BYTES,
) -> float:
    """What its `grade(sample, item)` returns. Raises GradingFailed where that is no number, or does not come."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-c",
        _CHILD % (memory_bytes, int(timeout_s) + 1),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        asked = json.dumps({"source": source, "sample": sample, "item": item}).encode()
        async with asyncio.timeout(timeout_s):
            said, complaint = await _exchange(child, asked)
            code = await child.wait()
    except TimeoutError:
        raise GradingFailed(f"the grader's program did not end within {timeout_s:g} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        await child.wait()
    return _score(code, said, complaint)


async def _exchange(child: asyncio.subprocess.Process, asked: bytes) -> tuple[bytes, bytes]:
    """Its result and the end of its stderr; of both no more is kept than is read."""
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    reading = asyncio.gather(_tail(child.stdout), _tail(child.stderr))
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        child.stdin.write(asked)
        await child.stdin.drain()
    child.stdin.close()
    said, complaint = await reading
    return said, complaint


async def _tail(stream: asyncio.StreamReader) -> bytes:
    kept = b""
    while piece := await stream.read(_MOST_RESULT):
        kept = (kept + piece)[-_MOST_RESULT:]
    return kept


def _score(code: int, said: bytes, complaint: bytes) -> float:
    if code:
        lines = complaint.decode("utf-8", "replace").strip().splitlines()
        reason = lines[-1][:_MOST_SHOWN] if lines else _signal_of(code)
        raise GradingFailed(f"the grader's program failed: {reason}")
    try:
        score = float(json.loads(said))
    except (TypeError, ValueError):
        raise GradingFailed("the grader's program ended without a score") from None
    if not math.isfinite(score):
        raise GradingFailed(f"the grader's program returned {score}, which is no score")
    return score


def _signal_of(code: int) -> str:
    return f"it ended by signal {-code}" if code < 0 else f"it ended with {code}"
