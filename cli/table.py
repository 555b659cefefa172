"""Which commands there are, and the module of each, which is imported when its command is called: those of others
stay away (`tests/unit/cli/test_start.py`)."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """A command `function` of a module, or a group of commands if it is a typer."""

    module: str
    function: str
    is_hidden: bool = False
    takes_more: bool = False
    """Arguments after its own, for a command that it starts."""
    is_plane: bool = False
    """It runs until SIGTERM, and no thread that is left then keeps the process."""


COMMANDS: dict[str, Entry] = {
    "init": Entry("cli.commands.init", "init"),
    "up": Entry("cli.box.up", "up", takes_more=True),
    "server": Entry("cli.commands.planes", "server", is_plane=True),
    "trainer": Entry("cli.commands.planes", "trainer", is_plane=True),
    "sampler": Entry("cli.commands.planes", "sampler", is_plane=True),
    "runner": Entry("cli.commands.planes", "runner", is_plane=True),
    "migrate": Entry("cli.commands.planes", "migrate"),
    "sizing": Entry("cli.commands.sizing", "sizing"),
    "status": Entry("cli.commands.status", "status"),
    "logs": Entry("cli.commands.logs", "logs"),
    "mirror": Entry("cli.commands.mirror", "mirror"),
    "export": Entry("cli.commands.exporting", "export"),
    "import": Entry("cli.commands.importing", "import_"),
    "gc": Entry("cli.commands.garbage_collection", "gc"),
    "pin": Entry("cli.commands.garbage_collection", "pin"),
    "unpin": Entry("cli.commands.garbage_collection", "unpin"),
    "verify": Entry("cli.commands.checks", "verify"),
    "doctor": Entry("cli.commands.doctor", "doctor"),
    "backup": Entry("cli.commands.backups", "backup"),
    "restore": Entry("cli.commands.backups", "restore"),
    "drain": Entry("cli.commands.operating", "drain"),
    "undrain": Entry("cli.commands.operating", "undrain"),
    "pause": Entry("cli.commands.operating", "pause"),
    "resume": Entry("cli.commands.operating", "resume"),
    "audit": Entry("cli.commands.operating", "audit"),
    "model": Entry("cli.commands.models", "app"),
    "runs": Entry("cli.commands.runs", "app"),
    "report": Entry("cli.commands.report", "app"),
    "keys": Entry("cli.commands.keys", "app"),
    "key": Entry("cli.commands.keys", "app", is_hidden=True),
    "team": Entry("cli.commands.teams", "teams"),
    "quota": Entry("cli.commands.teams", "quotas"),
    "blobs": Entry("cli.commands.blobs", "app"),
    "envs": Entry("cli.commands.environments", "app"),
    "runners": Entry("cli.commands.runners", "app"),
    "upstreams": Entry("cli.commands.upstreams", "app"),
}
