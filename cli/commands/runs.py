"""`headway runs`: start managed training, follow it, and change its course. Speaks to the service's API."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.ending import or_stop
from cli.matching import only_match
from cli.service.client import Key, Url, checked, pages, service_client
from cli.settings import DEFAULT_DATA_DIR, DataDir, stop_with
from cli.terminal.tables import Json, Listing, print_json, show, show_items
from cli.terminal.whole_help import WholeHelp

if TYPE_CHECKING:
    import httpx

app = typer.Typer(
    cls=WholeHelp,
    help="Managed training: the service rolls out, trains and evaluates by itself.",
    no_args_is_help=True,
)

RunId = Annotated[str, typer.Argument(help="The run's name, its id, or the first characters of that")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Show what happens until the run has ended")]

_ENDED = ("completed", "stopped", "failed", "cancelled")
_SUCCEEDED = ("completed", "stopped")
_RECONNECT_S = 2.0
_PATIENCE_S = 600.0
"""For a service that is away while a run is followed."""


@app.command("start")
def start(
    model: Annotated[str, typer.Option("--model", "-m", help="Id, slug or name of the model")],
    taskset: Annotated[str, typer.Option("--taskset", "-t", help="Name or id of the taskset")],
    held_out: Annotated[str | None, typer.Option(help="Taskset that is scored, and never trained on")] = None,
    every: Annotated[int | None, typer.Option(min=1, help="Steps from one held-out evaluation to the next")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps")] = None,
    group_size: Annotated[int | None, typer.Option(min=2, help="Rollouts of a task")] = None,
    tasks_per_step: Annotated[int | None, typer.Option(min=1, help="Tasks of a step")] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", "--lr", help="Learning rate")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Decides the order of tasks and what is sampled")] = None,
    config: Annotated[
        list[str] | None, typer.Option("--config", "-c", help="Any other setting, as KEY=VALUE; see docs/runs.md")
    ] = None,
    stop: Annotated[list[str] | None, typer.Option(help="A stop rule, as KEY=VALUE")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run")] = None,
    follow: Follow = False,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Start a run. It goes on without this command."""
    named = {
        "steps": steps,
        "group_size": group_size,
        "tasks_per_step": tasks_per_step,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    said = {**_pairs(config), **{option: value for option, value in named.items() if value is not None}}
    body: dict[str, Any] = {"model": model, "taskset": taskset, "config": said, "stop": _pairs(stop)}
    if name is not None:
        body["name"] = name
    if held_out is not None:
        body["held_out"] = {"taskset": held_out, **({"every": every} if every is not None else {})}
    with service_client(url, key, data_dir) as http:
        run = checked(http.post("/v2/runs", json=body)).json()
    typer.echo(f"started run {run['id']}: {run['steps']} steps of {run['model']} over {run['taskset']!r}")
    if follow:
        _follow(run["id"], url, key, data_dir, 0)


@app.command("list")
def list_(
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only runs of this model")] = None,
    state: Annotated[str | None, typer.Option(help="Only runs in this state, such as running")] = None,
    tag: Annotated[str | None, typer.Option(help="Only runs with this tag")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    as_json: Json = False,
    cursor: Annotated[str | None, typer.Option(help="Continue where the previous list ended")] = None,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show runs, newest first."""
    asked = {"model": model, "state": state, "tag": tag, "limit": limit, "cursor": cursor}
    with service_client(url, key, data_dir) as http:
        params = {option: value for option, value in asked.items() if value is not None}
        page = checked(http.get("/v2/runs", params=params)).json()
    headings = ("id", "name", "model", "taskset", "state", "step", "reward", "held out", "tags", "waits for", "cause")
    table = Listing(*headings, prose=("waits for", "cause"))
    for run in page["items"]:
        table.add_row(
            run["id"],
            run["name"] or "",
            run["model"],
            run["taskset"],
            run["state"],
            f"{run['step']}/{run['steps']}",
            _figure(run["reward"]),
            _figure(run["held_out_score"]),
            ", ".join(run["tags"]),
            run["waiting_for"] or "",
            run["error"] or run["stop_reason"] or "",
        )
    show_items(table, page["items"], as_json=as_json, next_cursor=page["next_cursor"])


@app.command("show")
def show_(
    run: RunId,
    as_json: Json = False,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show a run: every setting, where it stands, and what its present step waits for."""
    with service_client(url, key, data_dir) as http:
        found = checked(http.get(f"/v2/runs/{_whole_id(http, run)}")).json()
        steps = checked(http.get(f"/v2/runs/{found['id']}/steps", params={"limit": 2})).json()
    if as_json:
        print_json(found)
        return
    table = Listing("setting", "value", prose=("value",))
    for name in ("id", "name", "model", "taskset", "state", "reward", "held_out_score", "best_held_out_score"):
        table.add_row(name, _shown(found[name]))
    table.add_row("step", f"{found['step']} of {found['steps']}")
    table.add_row("tags", ", ".join(found["tags"]) or "–")
    for name in ("waiting_for", "error", "stop_reason", "job_id", "checkpoint_id"):
        if found[name] is not None:
            table.add_row(name, _shown(found[name]))
    for part in ("config", "stop", "held_out"):
        for name, value in (found[part] or {}).items():
            table.add_row(f"{part}.{name}", _shown(value))
    show(table)
    if rollouts := [rollout for step in steps if step["phase"] == "rolling_out" for rollout in step["rollouts"]]:
        places = Listing("place", "task", "state", "runner", "try", "waits for", prose=("waits for",))
        for rollout in rollouts:
            more = rollout["waits_for"] or rollout["error"] or ""
            cells = (rollout["task"], rollout["state"], rollout["runner"] or "", str(rollout["tries"]), more)
            places.add_row(str(rollout["position"]), *cells)
        show(places)


@app.command("logs")
def logs(
    run: RunId,
    follow: Follow = False,
    after: Annotated[int, typer.Option(min=0, help="Only events with a higher number")] = 0,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show what has happened to a run."""
    with service_client(url, key, data_dir) as http:
        run_id = _whole_id(http, run)
        if not follow:
            while items := checked(http.get(f"/v2/runs/{run_id}/events", params={"after": after})).json()["items"]:
                for event in items:
                    _print(event)
                after = items[-1]["seq"]
            return
    _follow(run_id, url, key, data_dir, after)


@app.command("tag")
def tag(
    run: RunId,
    tags: Annotated[list[str] | None, typer.Argument(help="Tags that it gets besides those it has")] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", help="A tag that it loses; may be repeated")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove the tags that it has first")] = False,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Tag a run; without tags, show those it has."""
    with service_client(url, key, data_dir) as http:
        found = checked(http.get(f"/v2/runs/{_whole_id(http, run)}")).json()
        if missing := [one for one in remove or [] if one not in found["tags"]]:
            stop_with(f"the run has no tag {missing[0]!r}; it has: {', '.join(found['tags']) or 'none'}")
        kept = [] if clear else [one for one in found["tags"] if one not in (remove or [])]
        wanted = [*kept, *(one for one in tags or [] if one not in kept)]
        if wanted != found["tags"]:
            found = checked(http.patch(f"/v2/runs/{found['id']}", json={"tags": wanted})).json()
    typer.echo(f"run {found['id']}: {', '.join(found['tags']) or 'no tags'}")


@app.command("pause")
def pause(run: RunId, url: Url = None, key: Key = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Pause a run after its present step."""
    _change(run, "pause", url, key, data_dir)


@app.command("resume")
def resume(run: RunId, url: Url = None, key: Key = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Go on with a run that was paused, stopped or failed."""
    _change(run, "resume", url, key, data_dir)


@app.command("cancel")
def cancel(run: RunId, url: Url = None, key: Key = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """End a run now. The steps that are done stay."""
    _change(run, "cancel", url, key, data_dir)


@app.command("delete")
def delete(run: RunId, url: Url = None, key: Key = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Forget a run that has ended. Its rollouts and checkpoints stay."""
    with service_client(url, key, data_dir) as http:
        run_id = _whole_id(http, run)
        checked(http.delete(f"/v2/runs/{run_id}"))
    typer.echo(f"deleted run {run_id}")


def _change(run: str, what: str, url: str | None, key: str | None, data_dir: Path) -> None:
    with service_client(url, key, data_dir) as http:
        changed = checked(http.post(f"/v2/runs/{_whole_id(http, run)}/{what}")).json()
    typer.echo(f"run {changed['id']} is {changed['state']}")


def _whole_id(http: httpx.Client, run: str) -> str:
    """Of a run that is named by its id, its name, or the first characters of its id."""
    if len(run.replace("-", "")) == 32:
        return run
    things = [(known["id"], known["name"]) for known in pages(http, "/v2/runs")]
    return or_stop(lambda: only_match(things, run, kind="run", see="headway runs list"))


def _follow(run_id: str, url: str | None, key: str | None, data_dir: Path, after: int) -> None:
    """Print events until the run has ended; exits with 1 unless it succeeded. A connection that breaks is made again,
    and goes on behind the last event."""
    with suppress(KeyboardInterrupt):
        with service_client(url, key, data_dir) as http:
            for event in _events(http, run_id, after):
                _print(event)
            run = checked(http.get(f"/v2/runs/{run_id}")).json()
        if run["state"] in _ENDED and run["state"] not in _SUCCEEDED:
            raise typer.Exit(1)


def _events(http: httpx.Client, run_id: str, after: int) -> Generator[dict[str, Any]]:
    import httpx

    away_since: float | None = None
    while True:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        try:
            with http.stream("GET", f"/v2/runs/{run_id}/events", headers=headers) as reply:
                if reply.status_code < 500:
                    away_since = None
                    for line in checked(reply).iter_lines():
                        if line.startswith("data: "):
                            event: dict[str, Any] = json.loads(line.removeprefix("data: "))
                            after = event["seq"]
                            yield event
            if checked(http.get(f"/v2/runs/{run_id}")).json()["state"] in _ENDED:
                return
        except httpx.TransportError:
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > _PATIENCE_S:
                raise
        time.sleep(_RECONNECT_S)


def _print(event: dict[str, Any]) -> None:
    typer.echo(f"{event['at'][:19].replace('T', ' ')}  {event['kind']:<9}  {event['message']}")


def _pairs(pairs: list[str] | None) -> dict[str, Any]:
    """KEY=VALUE, each value read as JSON where it is some."""
    found = dict[str, Any]()
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals:
            stop_with(f"{pair!r} is no KEY=VALUE")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _shown(value: Any) -> str:
    return "" if value is None else str(value)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
