"""The overview as tables in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.text import Text

from cli.terminal.tables import Listing
from store.planes.overview import ModelState, OpenAlarm, Overview, PausedModel, PlacedKind, PlaneState
from store.planes.promotion import Missing
from store.planes.trainer_availability import TrainerAvailability

_STYLES = {"live": "green", "starting": "yellow", "draining": "yellow", "silent": "bold red", "stopped": "bold red"}


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system of the data folder, in bytes."""

    folder: str
    free: int
    total: int


def view(overview: Overview) -> list[Listing]:
    """Planes, what they loaded, bases, models; what is paused, alarms, and what runners are to carry out, if there is
    anything."""
    paused = [_paused(overview.paused)] if overview.paused else []
    alarms = [_alarms(overview.alarms)] if overview.alarms else []
    placed = [_placed(overview.placed)] if overview.placed else []
    loaded = [_loaded(overview.planes)] if any(plane.details for plane in overview.planes) else []
    planes = [_planes(overview.planes), *loaded]
    return [*planes, _bases(overview.bases), _models(overview), *paused, *alarms, *placed]


def as_of(overview: Overview, disk: Disk | None) -> str:
    """Which samplers are in trouble, what waits for one to pass, when that was, and the room that the disk had."""
    sick = (plane for plane in overview.planes if plane.trouble is not None)
    samplers = "".join(f"the {_named(p)} ({p.host}, pid {p.pid}) is {p.state}: {p.trouble}\n" for p in sick)
    troubles = "".join(f"{m.model} waits: {m.trouble}\n" for m in overview.models if m.trouble is not None)
    return f"{samplers}{troubles}{_disk(disk)}as of {overview.at:%Y-%m-%d %H:%M:%S %Z}"


def missing_table(missing: Sequence[Missing]) -> Listing:
    """What live samplers should serve and do not: for that, the gateway sends nobody to them."""
    headings = ("sampler", "base", "model", "checkpoint", "state", "why")
    table = Listing(*headings, prose=("why",), title="Not served")
    for entry in missing:
        state = "out of rotation" if entry.is_out_of_rotation else "loading"
        why = entry.error or f"missing for {entry.late_s:.0f} s"
        names = (entry.url, entry.base, entry.model, entry.checkpoint or "base weights")
        table.add_row(*names, state, why)
    return table


def _planes(planes: Sequence[PlaneState]) -> Listing:
    headings = ("plane", "base", "host", "pid", "state", "last heard of", "holds")
    table = Listing(*headings, title="Servers, trainers, samplers and runners")
    for plane in planes:
        state = Text(plane.state, style=_STYLES[plane.state])
        heard = f"{plane.silent_s:.0f} s ago"
        table.add_row(plane.plane, plane.base, plane.host, str(plane.pid), state, heard, _held(plane))
    return table


def _named(plane: PlaneState) -> str:
    return f"{plane.plane} of {plane.base}" if plane.base else plane.plane


def _loaded(planes: Sequence[PlaneState]) -> Listing:
    table = Listing("plane", "base", "pid", "loaded", prose=("loaded",), title="What they loaded")
    for plane in planes:
        if plane.details:
            table.add_row(plane.plane, plane.base, str(plane.pid), plane.loaded)
    return table


def _paused(paused: Sequence[PausedModel]) -> Listing:
    headings = ("model", "team", "paused by", "since", "reason")
    table = Listing(*headings, prose=("reason",), title="Paused models ('headway resume MODEL')")
    for one in paused:
        table.add_row(one.model, one.team or "", one.by or "", f"{one.since:%Y-%m-%d %H:%M}", one.reason or "")
    return table


def _alarms(alarms: Sequence[OpenAlarm]) -> Listing:
    headings = ("model", "team", "rule", "step", "at", "state", "message")
    table = Listing(*headings, prose=("message",), title="Alarms that nobody has acknowledged")
    for one in alarms:
        at = f"{one.at:%Y-%m-%d %H:%M}"
        table.add_row(one.model, one.team or "", one.rule, str(one.step), at, one.state, one.message)
    return table


def _placed(placed: Sequence[PlacedKind]) -> Listing:
    table = Listing("of runners", "queued", "running", title="For runners")
    for one in placed:
        table.add_row(f"{one.kind}s", str(one.num_queued), str(one.num_running))
    return table


def _held(plane: PlaneState) -> str | Text:
    if plane.plane == "server":
        return ""
    thing = {"trainer": "lease", "sampler": "adapter"}.get(plane.plane, "placement")
    held = f"{plane.num_held} {thing}{'' if plane.num_held == 1 else 's'}"
    return Text.assemble(f"{held}, ", (f"{plane.num_failed} failed", "red")) if plane.num_failed else held


def _bases(bases: Sequence[TrainerAvailability]) -> Listing:
    headings = ("base", "trainers", "queued operations", "shortage")
    table = Listing(*headings, prose=("shortage",), title="Bases")
    for supply in bases:
        table.add_row(supply.base, str(supply.num_ready), str(supply.num_open), supply.shortage or "")
    return table


def _models(overview: Overview) -> Listing:
    more = overview.num_models - len(overview.models)
    title = f"Models ({len(overview.models)} of {overview.num_models})" if more > 0 else "Models"
    columns = ("model", "team", "head", "mean reward", "KL", "entropy", "stepped", "queued", "running")
    table = Listing(*columns, title=title)
    for model in overview.models:
        table.add_row(
            model.model,
            model.team or "(base)",
            model.head or "base weights",
            _figure(model.reward_mean),
            _figure(model.kl),
            _figure(model.entropy),
            _since(model, overview.at),
            str(model.num_queued),
            str(model.num_running),
        )
    return table


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _since(model: ModelState, now: datetime) -> str:
    if model.stepped_at is None:
        return ""
    seconds = max(0.0, (now - model.stepped_at).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _disk(disk: Disk | None) -> str:
    if disk is None:
        return ""
    return f"{disk.free / 1e9:.1f} GB of {disk.total / 1e9:.1f} GB free at {disk.folder}; "
