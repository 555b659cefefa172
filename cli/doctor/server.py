"""A server, as runners and clients reach it: with its URL and a key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from uuid import uuid4

from cli.doctor.calling import Answer, Trust, Unreachable, call
from cli.doctor.clocks import http_clock_finding
from cli.doctor.finding import Finding, State

PART = "server"
_REFUSED = 401, 403


def check_server(origin: str, trust: Trust, runner_key: str | None) -> list[Finding]:
    """runner_key: to be shown; None for a place that has none."""
    found = list[Finding]()
    try:
        found.extend(_examine(origin.rstrip("/"), trust, runner_key))
    except Unreachable as failed:
        found.append(failed.finding)
    return found


def _examine(origin: str, trust: Trust, runner_key: str | None) -> Iterator[Finding]:
    ready = call(PART, "GET", f"{origin}/readyz/server", trust)
    yield _readiness(origin, ready)
    if ready.status not in (200, 503):
        return
    if (clock := http_clock_finding(PART, ready.clock, ready.date)) is not None:
        yield clock
    if runner_key is None:
        return
    # Of a runner that does not exist: it changes nothing, and the key is looked at first.
    beat = call(PART, "POST", f"{origin}/runner/{uuid4()}/heartbeat", trust, runner_key, {})
    if beat.status in _REFUSED:
        remedy = "make one with `headway keys create NAME --role runner`"
        yield Finding(PART, "runner's key", State.NOT_OK, f"refused ({beat.status}): {_sentence(beat.text)}", remedy)
    elif beat.status >= 500:
        yield Finding(PART, "runner's key", State.UNKNOWN, f"it answers {beat.status}: {_sentence(beat.text)}")
    else:
        yield Finding(PART, "runner's key", State.OK, "accepted")


def _readiness(origin: str, ready: Answer) -> Finding:
    if ready.status == 200:
        encrypted = "over TLS" if origin.startswith("https:") else "without TLS"
        return Finding(PART, "reachable", State.OK, f"{origin}, {encrypted}")
    if ready.status != 503:
        return Finding(PART, "reachable", State.NOT_OK, f"no server of Headway answers at {origin}", "mend --server")
    return Finding(
        PART, "ready", State.NOT_OK, f"{origin} answers {ready.status}: {_sentence(ready.text)}", "see its log"
    )


def _sentence(text: str) -> str:
    try:
        said = json.loads(text)
    except ValueError:
        return text
    if isinstance(said, dict):
        missing = said.get("missing")
        return "; ".join(map(str, missing)) if missing else str(said.get("detail", said))
    return text
