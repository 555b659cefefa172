"""Access to the embedded database: by its password only.

`peer` would let in every process of this user, and code that a policy wrote may be one some day; `trust` lets in
everybody who can open the socket.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from store.embedded.programs import SUPERUSER, Programs
from store.private_files import write_private

_RULES = """\
# Written by Headway whenever it starts this database.
local all all scram-sha-256
"""


class EmbeddedPostgresFailed(RuntimeError):
    """The embedded PostgreSQL cannot run here."""


def read_password(folder: Path) -> str | None:
    """The database's password; None for one that has none yet."""
    try:
        return _file(folder).read_text().strip() or None
    except FileNotFoundError:
        return None


def new_password(folder: Path, programs: Programs) -> str:
    """Give the database, which must not be running, another password, and write it down. Nobody else can connect
    meanwhile: PostgreSQL's single-user mode reads commands from us alone."""
    password = secrets.token_urlsafe(32)
    command = programs.server()
    given = f"alter role {SUPERUSER} password '{password}'\n"
    programs.run(
        [command[0], "--single", *command[1:], "-c", "password_encryption=scram-sha-256", "postgres"], folder, given
    )
    write_private(_file(folder), f"{password}\n")
    return password


def let_in_with_password_only(folder: Path, programs: Programs) -> None:
    """Takes effect when the server starts."""
    rules = folder / "pg_hba.conf"
    if rules.read_text() != _RULES:
        write_private(rules, _RULES)
        programs.give(rules)


def _file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-password")
