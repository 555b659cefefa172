"""Planes that are registered: whether they are reached from here, believe our token, and fit together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import uuid4

from sqlalchemy import select

from cli.doctor.calling import Trust, Unreachable, call
from cli.doctor.finding import Finding, State
from store.database import Database
from store.planes.overview import PlaneState, take_overview
from store.planes.registration import is_live
from store.tables import RunnerRow, SamplerRow
from wire.loaded import Loaded, version_of

_AT_ONCE = 32
_SEEN = "live", "draining", "starting"
_STORES = {
    "checkpoints": ("checkpoint store", "HEADWAY_CHECKPOINT_STORE"),
    "blobs": ("blob store", "HEADWAY_BLOB_STORE"),
}


@dataclass(frozen=True, slots=True)
class _Address:
    """Where a plane listens, and the token that servers show there."""

    part: str
    url: str
    token: str | None


def check_planes(
    database: Database, trust: Trust, sampler_token: str | None, stores: Mapping[str, str], *, reach: bool
) -> list[Finding]:
    """stores: fingerprints of those that are used here (`wire.loaded.store_fingerprint`). reach: also call samplers and
    runners, as a server does."""
    with database.session() as session:
        planes = take_overview(session, max_models=1).planes
        samplers = session.execute(select(SamplerRow.host, SamplerRow.url).where(is_live(SamplerRow))).all()
        live = [plane.id for plane in planes if plane.plane == "runner" and plane.state in _SEEN]
        runners = session.execute(
            select(RunnerRow.host, RunnerRow.url, RunnerRow.tunnel_token).where(RunnerRow.id.in_(live))
        ).all()
    findings = [*_fit_together([plane for plane in planes if plane.state in _SEEN], stores), *_troubles(planes)]
    if reach:
        calls = [_sampler(_Address(f"sampler {host}", url, sampler_token), trust) for host, url in samplers]
        calls += [_runner(_Address(f"runner {host}", url, token), trust) for host, url, token in runners if url]
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            findings += [finding for found in threads.map(_carry_out, calls) for finding in found]
    return findings


_Call = Callable[[], Iterator[Finding]]


def _carry_out(examine: _Call) -> list[Finding]:
    found = list[Finding]()
    try:
        found.extend(examine())
    except Unreachable as failed:
        found.append(failed.finding)
    return found


def _sampler(address: _Address, trust: Trust) -> _Call:
    def examine() -> Iterator[Finding]:
        part = address.part
        health = call(part, "GET", f"{address.url}/healthz", trust)
        yield _health(part, address.url, health.status, health.text)
        if address.token is None:
            remedy = "give --sampler-token or --sampler-token-file, as servers have it"
            yield Finding(part, "token", State.UNKNOWN, "there is none here", remedy)
            return
        shown = call(part, "GET", f"{address.url}/metrics", trust, address.token)
        yield _token(part, shown.status == 200, "give servers and samplers the same HEADWAY_SAMPLER_TOKEN")

    return examine


def _runner(address: _Address, trust: Trust) -> _Call:
    def examine() -> Iterator[Finding]:
        part, url = address.part, f"http{address.url.removeprefix('ws')}"
        health = call(part, "GET", f"{url}/healthz", trust)
        yield _health(part, address.url, health.status, health.text)
        if address.token is not None:
            shown = call(part, "GET", f"{url}/{uuid4().hex}", trust, address.token)
            yield _token(
                part, shown.status == 404, "it draws one at each start: another process listens at its address"
            )

    return examine


def _health(part: str, url: str, status: int, text: str) -> Finding:
    if status == 200:
        encrypted = "over TLS" if url.startswith(("https:", "wss:")) else "without TLS"
        return Finding(part, "reachable", State.OK, f"{url}, {encrypted}")
    return Finding(part, "health", State.NOT_OK, f"{url} answers {status}: {text}", "see its log")


def _token(part: str, is_accepted: bool, remedy: str) -> Finding:
    if is_accepted:
        return Finding(part, "token", State.OK, "accepted")
    return Finding(part, "token", State.NOT_OK, "refused", remedy)


def _troubles(planes: Iterable[PlaneState]) -> Iterator[Finding]:
    for plane in planes:
        part = f"{plane.plane} {plane.host}"
        if plane.trouble:
            yield Finding(part, "trouble", State.NOT_OK, plane.trouble, "see its log")
        elif plane.state == "silent":
            found = f"no heartbeat for {plane.silent_s:.0f} s"
            yield Finding(part, "heartbeat", State.NOTE, found, "it is gone, hangs, or does not reach PostgreSQL")


def _fit_together(planes: Sequence[PlaneState], stores: Mapping[str, str]) -> Iterator[Finding]:
    if not planes:
        yield Finding("planes", "registered", State.NOTE, "none lives", "start a server, a trainer and a sampler")
        return
    described = [(plane, Loaded.read(plane.details)) for plane in planes if plane.details]
    yield _versions(described)
    for name, (title, variable) in _STORES.items():
        here = stores.get(name)
        others = [
            f"{plane.plane} {plane.host}"
            for plane, loaded in described
            if here and name in (loaded.stores or {}) and (loaded.stores or {})[name] != here
        ]
        if others:
            found = f"{_listed(others)} use another one than this place"
            yield Finding(title, "one for all", State.NOT_OK, found, f"give all planes the same {variable}")
        elif here:
            yield Finding(title, "one for all", State.OK, "no plane uses another")


def _versions(described: Sequence[tuple[PlaneState, Loaded]]) -> Finding:
    by_release = defaultdict[str, list[str]](list)
    for plane, loaded in described:
        schema = f" (schema {loaded.schema})" if loaded.schema else ""
        by_release[f"{loaded.version}{schema}"].append(f"{plane.plane} {plane.host}")
    versions = {loaded.version for _, loaded in described} | {version_of("headway")}
    schemas = {loaded.schema for plane, loaded in described if plane.plane != "runner"}  # releases before 0021: None
    found = "; ".join(f"{release}: {_listed(planes)}" for release, planes in sorted(by_release.items()))
    if len(versions) <= 1 and len(schemas) <= 1:
        return Finding("planes", "versions", State.OK, found)
    return Finding("planes", "versions", State.NOTE, found, "fine while you upgrade; bring the others up to date then")


def _listed(names: Sequence[str], most: int = 5) -> str:
    shown = sorted(set(names))
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more
