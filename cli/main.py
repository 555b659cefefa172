"""`headway`: one command a job. Heavy imports happen inside the commands, so that `--help` is quick."""

from __future__ import annotations

from typing import Any

import typer

from cli.box import up
from cli.commands import (
    backups,
    checks,
    environments,
    exporting,
    garbage_collection,
    importing,
    init,
    keys,
    mirror,
    operating,
    planes,
    report,
    runners,
    runs,
    status,
    teams,
    upstreams,
)
from cli.terminal.any_encoding import print_in_any_encoding
from cli.terminal.whole_help import WholeHelp
from wire.process.threads import wait_passively


def wait_passively_first() -> None:
    """Before a command imports torch, or starts a process that does."""
    wait_passively()


class Headway(typer.Typer):
    """The command, for the installed script and `python -m cli` alike."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        print_in_any_encoding()
        return super().__call__(*args, **kwargs)


app = Headway(
    name="headway",
    cls=WholeHelp,
    help="Self-hosted GRPO training: run the service on this machine (up), or one plane of it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.callback()(wait_passively_first)
app.command("init")(init.init)
app.command("up", context_settings={"allow_extra_args": True})(up.up)
app.command("server")(planes.server)
app.command("trainer")(planes.trainer)
app.command("sampler")(planes.sampler)
app.command("runner")(planes.runner)
app.command("migrate")(planes.migrate)
app.command("status")(status.status)
app.command("mirror")(mirror.mirror)
app.command("export")(exporting.export)
app.command("import")(importing.import_)
app.command("gc")(garbage_collection.gc)
app.command("pin")(garbage_collection.pin)
app.command("unpin")(garbage_collection.unpin)
app.command("verify")(checks.verify)
app.command("doctor")(checks.doctor)
app.command("backup")(backups.backup)
app.command("restore")(backups.restore)
app.command("drain")(operating.drain)
app.command("undrain")(operating.undrain)
app.command("pause")(operating.pause)
app.command("resume")(operating.resume)
app.command("audit")(operating.audit)
app.add_typer(runs.app, name="runs")
app.add_typer(report.app, name="report")
app.add_typer(keys.app, name="keys")
app.add_typer(keys.app, name="key", hidden=True)
app.add_typer(teams.teams, name="team")
app.add_typer(teams.quotas, name="quota")
app.add_typer(environments.app, name="envs")
app.add_typer(runners.app, name="runners")
app.add_typer(upstreams.app, name="upstreams")
