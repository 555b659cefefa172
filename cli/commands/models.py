"""`headway model`: a team's models, by the service's API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from cli.commands import weights
from cli.service.client import Key, Url, checked, service_client
from cli.settings import DEFAULT_DATA_DIR, DataDir, stop_with
from cli.terminal.tables import Json, Listing, print_json, show, show_items
from cli.terminal.whole_help import WholeHelp

app = typer.Typer(
    cls=WholeHelp,
    help="The team's models: fork, list, rename, describe, tag, delete, and take them home.",
    no_args_is_help=True,
)

_SHOWN = 10
Model = Annotated[str, typer.Argument(help="The model's name or id")]

app.command("export")(weights.export)
app.command("push")(weights.push)
app.command("import")(weights.import_)


@app.command("fork")
def fork(
    source: Annotated[str, typer.Argument(help="A base, or one of the team's models")],
    name: Annotated[str, typer.Argument(help="What the new model is called")],
    rank: Annotated[int | None, typer.Option("--lora-rank", min=1, help="Rank of its adapter")] = None,
    alpha: Annotated[
        int | None, typer.Option("--lora-alpha", min=1, help="Its updates are scaled by alpha / rank")
    ] = None,
    targets: Annotated[
        str | None, typer.Option("--lora-targets", help="Parts that it is on: attn, mlp, unembed; with commas")
    ] = None,
    seed: Annotated[int | None, typer.Option("--lora-seed", min=0, help="Of its random start; default: 0")] = None,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Make a model that starts where another's head is. What is not said of its adapter is the server's default, or as
    in a trained source."""
    parts = None if targets is None else [part.strip() for part in targets.split(",")]
    said = {"rank": rank, "alpha": alpha, "targets": parts, "seed": seed}
    lora = {what: value for what, value in said.items() if value is not None}
    with service_client(url, key, data_dir) as http:
        found = checked(http.get("/v2/models/resolve", params={"model": source})).json()
        asked = {"source_model_id": found["id"], "name": name, **({"lora": lora} if lora else {})}
        made = checked(http.post("/v2/models/fork", json=asked)).json()
    typer.echo(f"forked {found['model_name']} as {name}: LoRA of {_shape(made['lora'])} ({made['id']})")


@app.command("list")
def list_(
    tag: Annotated[str | None, typer.Option("--tag", help="Only models with this tag")] = None,
    as_json: Json = False,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show bases and the team's models."""
    with service_client(url, key, data_dir) as http:
        items = checked(http.get("/v2/models")).json()["items"]
    items = [item for item in items if tag is None or tag in item["tags"]]
    table = Listing("id", "model", "base", "rank", "head", "tags", "description", prose=("tags", "description"))
    for item in items:
        head, about = item["head_checkpoint_id"] or "", item["description"] or ""
        rank = str(item["lora"]["rank"]) if item["lora"] else ""
        tags = ", ".join(item["tags"])
        table.add_row(item["id"], item["model_name"], item["base_model"] or "", rank, head, tags, about)
    show_items(table, items, as_json=as_json)


@app.command("show")
def show_(
    model: Model, as_json: Json = False, url: Url = None, key: Key = None, data_dir: DataDir = DEFAULT_DATA_DIR
) -> None:
    """Show a model, what hangs on it, and its newest checkpoints."""
    with service_client(url, key, data_dir) as http:
        found = checked(http.get(_path(model))).json()
        if found["base_model"] is None:
            stop_with(f"{model!r} is no model of the team, but a base or another vendor's; see 'headway model list'")
        contents = checked(http.get(_path(found["id"], "contents"))).json()
        newest = {} if as_json else {"limit": _SHOWN, "newest_first": True}
        nodes = checked(http.get(_path(found["id"], "checkpoints"), params=newest)).json()
    if as_json:
        print_json({**found, "contents": contents, "checkpoints": nodes})
        return
    table = Listing("what", "value", prose=("value",))
    for name, value in {**found, **contents, "lora": _shape(found["lora"])}.items():
        if value not in (None, [], {}):
            table.add_row(name, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
    listing = Listing("id", "checkpoint", "step", "reward", "files")
    for node in reversed(nodes):
        reward = "" if node["mean_reward"] is None else f"{node['mean_reward']:.4f}"
        listing.add_row(node["id"], node["name"], str(node["step"]), reward, "yes" if node["has_files"] else "no")
    show(table, listing)


@app.command("rename")
def rename(model: Model, name: str, url: Url = None, key: Key = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Give a model another name. Requests under the old one are refused from then on."""
    _change(model, {"name": name}, url, key, data_dir)
    typer.echo(f"the model {model} is called {name} now")


@app.command("describe")
def describe(
    model: Model,
    text: Annotated[str, typer.Argument(help="One line; empty: none any more")],
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Write down what a model is for."""
    _change(model, {"description": text or None}, url, key, data_dir)
    typer.echo(f"described the model {model}")


@app.command("tag")
def tag(
    model: Model,
    tags: Annotated[list[str] | None, typer.Argument(help="Tags to add")] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", help="A tag to take away")] = None,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Add tags to a model, and take others away."""
    with service_client(url, key, data_dir) as http:
        known: list[str] = checked(http.get(_path(model))).json()["tags"]
        if missing := [gone for gone in remove or [] if gone not in known]:
            stop_with(f"{model} has no tag {missing[0]!r}; it has: {', '.join(known) or 'none'}")
        wanted = [*(old for old in known if old not in (remove or [])), *(tags or [])]
        changed = checked(http.patch(_path(model), json={"tags": wanted})).json()
    typer.echo(f"{model} has the tags: {', '.join(changed['tags']) or 'none'}")


@app.command("delete")
def delete(
    model: Model,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; needs --checkpoints")] = False,
    checkpoints: Annotated[
        int | None, typer.Option(min=0, help="With --yes: how many checkpoints it has, as a confirmation")
    ] = None,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Delete a model, after what hangs on it was shown and its name typed. Its rollouts and runs stay."""
    with service_client(url, key, data_dir) as http:
        found = checked(http.get(_path(model, "contents"))).json()
        if found["blockers"]:
            stop_with(f"{found['model']} cannot be deleted now: {'; '.join(found['blockers'])}")
        _show_contents(found)
        if not yes:
            checkpoints = found["num_checkpoints"]
            if typer.prompt(f"Type {found['model']} to delete it", err=True) != found["model"]:
                stop_with("nothing was deleted: that is not its name")
        elif checkpoints is None:
            stop_with(f"--yes needs --checkpoints {found['num_checkpoints']}")
        checked(http.delete(_path(model), params={"checkpoints": checkpoints}))
    typer.echo(f"deleted {found['model']}")


@app.command("delete-checkpoint")
def delete_checkpoint(
    model: Model, checkpoint: str, url: Url = None, key: Key = None, data_dir: DataDir = DEFAULT_DATA_DIR
) -> None:
    """Delete the files of a checkpoint that nothing needs; it stays in the tree as history."""
    with service_client(url, key, data_dir) as http:
        done = checked(http.delete(_path(model, f"checkpoints/{quote(checkpoint, safe='')}"))).json()
    typer.echo(f"deleted {done['name']}: the next collection frees {done['num_bytes']:,} bytes")


def _shape(lora: dict[str, Any]) -> str:
    layers = f" ({', '.join(lora['layers'])})" if lora["layers"] else ""
    return f"rank {lora['rank']}, alpha {lora['alpha']} on {', '.join(lora['targets'])}{layers}, seed {lora['seed']}"


def _show_contents(found: dict[str, Any]) -> None:
    forks = f" ({', '.join(found['forks'])})" if found["forks"] else ""
    kept = f"{found['num_bytes_kept']:,} bytes stay for {found['num_forks'] + found['num_forks_of_others']} models"
    lines = {
        "checkpoints": f"{found['num_checkpoints']:,}, {found['num_bytes']:,} bytes",
        "began at them": f"{kept}{forks}" if found["num_forks"] + found["num_forks_of_others"] else "no other model",
        "tinker paths": f"{found['num_paths']:,}, of which {found['num_published']:,} published",
        "calls that wait": f"{found['num_calls']:,}, and {found['num_open_samplers']:,} open sampling sessions",
        "stays": f"{found['num_rollouts']:,} rollouts, {found['num_runs']:,} runs",
    }
    for what, value in lines.items():
        typer.echo(f"  {what:<16} {value}", err=True)


def _change(model: str, change: dict[str, Any], url: str | None, key: str | None, data_dir: Path) -> None:
    with service_client(url, key, data_dir) as http:
        checked(http.patch(_path(model), json=change))


def _path(model: str, part: str = "") -> str:
    return f"/v2/models/{quote(model, safe='')}" + (f"/{part}" if part else "")
