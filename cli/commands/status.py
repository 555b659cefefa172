"""`headway status`: what is alive, what waits, where each model stands; once, or as it changes."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from cli.ending import or_stop
from cli.settings import DEFAULT_DATA_DIR, DataDir, OptionalDatabaseUrl, database_url_or_embedded
from cli.terminal.status_view import Disk, as_of, missing_table, view
from cli.terminal.tables import Json, Listing, show
from store.database import DATABASE_AWAY, Database, away_reason
from store.planes.overview import Overview, take_overview
from store.planes.promotion import Missing, missing_adapters


def status(
    database_url: OptionalDatabaseUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing it, until Ctrl-C")] = False,
    every_s: Annotated[float, typer.Option("--every-s", min=0.2, help="With --watch: seconds between queries")] = 2.0,
    as_json: Json = False,
    max_models: Annotated[int, typer.Option(min=1, help="Models to show: those that stepped last")] = 200,
) -> None:
    """Show trainers, samplers, models and the queue."""
    database = Database(database_url_or_embedded(database_url, data_dir))
    try:
        if watch:
            or_stop(lambda: _watch(database, data_dir, every_s, max_models, as_json))
        else:
            or_stop(lambda: _show(_look(database, data_dir, max_models), as_json))
    except KeyboardInterrupt:
        pass
    finally:
        database.close()


def _watch(database: Database, data_dir: Path, every_s: float, max_models: int, as_json: bool) -> None:
    """A database that goes away is said and waited for."""
    if as_json:
        while True:
            try:
                _show(_look(database, data_dir, max_models), as_json)
            except DATABASE_AWAY as error:
                typer.echo(json.dumps({"error": away_reason(error)}))
            time.sleep(every_s)
    console = Console()
    if not console.is_terminal:
        _watch_in_a_pipe(database, data_dir, every_s, max_models)
    shown: Any = Text("")
    with Live(shown, console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while True:
            try:
                shown = _look(database, data_dir, max_models).shown()
                live.update(shown, refresh=True)
            except DATABASE_AWAY as error:
                live.update(Group(Text(away_reason(error), style="bold red"), shown), refresh=True)
            time.sleep(every_s)


def _watch_in_a_pipe(database: Database, data_dir: Path, every_s: float, max_models: int) -> NoReturn:
    while True:
        try:
            _show(_look(database, data_dir, max_models), as_json=False)
        except DATABASE_AWAY as error:
            typer.echo(away_reason(error))
        typer.echo("")
        time.sleep(every_s)


@dataclass(frozen=True, slots=True)
class _Look:
    """What is shown at once."""

    overview: Overview
    missing: list[Missing]
    disk: Disk | None

    def shown(self) -> RenderableType:
        return Group(*self.listings(), as_of(self.overview, self.disk))

    def listings(self) -> list[Listing]:
        return [*view(self.overview), *([missing_table(self.missing)] if self.missing else [])]

    def to_json(self) -> str:
        more = {"missing": [asdict(entry) for entry in self.missing], "disk": self.disk and asdict(self.disk)}
        return json.dumps(asdict(self.overview) | more, default=str)


def _look(database: Database, data_dir: Path, max_models: int) -> _Look:
    with database.session() as session:
        overview = take_overview(session, max_models=max_models)
    with database.connection() as connection:
        missing = missing_adapters(connection)
    return _Look(overview, missing, _disk(data_dir))


def _show(look: _Look, as_json: bool) -> None:
    if as_json:
        typer.echo(look.to_json())
    else:
        show(*look.listings())
        typer.echo(as_of(look.overview, look.disk))


def _disk(data_dir: Path) -> Disk | None:
    if not data_dir.exists():
        return None
    usage = shutil.disk_usage(data_dir)
    return Disk(str(data_dir), usage.free, usage.total)
