"""What a migration calls that takes something away which earlier releases use (docs/upgrades.md)."""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

from store.planes.presence import PRESENT
from store.planes.registration import lives_sql

_OLDER_PLANES = f"""
    select 'server ' || host as plane, coalesce(details->>'version', 'unknown') as release
    from servers where number = any({PRESENT}) and coalesce(details->>'schema', '') < :oldest
    union all
    select 'trainer ' || t.host, coalesce(t.details->>'version', 'unknown')
    from trainers t where {lives_sql("t")} and coalesce(t.details->>'schema', '') < :oldest
    union all
    select 'sampler ' || s.host, coalesce(s.details->>'version', 'unknown')
    from samplers s where {lives_sql("s")} and coalesce(s.details->>'schema', '') < :oldest
    order by 1
"""  # noqa: S608 - put together from constants
_LOCK = "lock table contractions in access exclusive mode"
"""Until the migration commits: a plane that starts reads this table in the transaction that registers it."""
_CONTRACT = """
    insert into contractions (revision, oldest_revision, oldest_release) values (:revision, :oldest, :release)
"""


class OlderPlanesRun(ValueError):
    """Planes run that would use what the migration is about to take away."""


def contract(revision: str, *, oldest_revision: str, oldest_release: str) -> None:
    """From this migration on, releases that do not know `oldest_revision` refuse to start. The first that knows it is
    `oldest_release`. Raises OlderPlanesRun while a plane of an earlier one lives; one that starts meanwhile is either
    found here, or finds this."""
    connection = op.get_bind()
    connection.execute(text(_LOCK))
    if running := connection.execute(text(_OLDER_PLANES), {"oldest": oldest_revision}).all():
        named = ", ".join(f"{plane} ({release})" for plane, release in running)
        raise OlderPlanesRun(
            f"migration {revision} takes away what releases before {oldest_release} use, and these run: {named}. "
            f"Bring them to {oldest_release} or later, or stop them, and migrate again"
        )
    values = {"revision": revision, "oldest": oldest_revision, "release": oldest_release}
    connection.execute(text(_CONTRACT), values)
