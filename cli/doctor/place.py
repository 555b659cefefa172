"""All that is checked from one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cli.doctor.bounded import examined
from cli.doctor.calling import Trust
from cli.doctor.database import PART, check_database
from cli.doctor.finding import Finding, State
from cli.doctor.plane import Plane
from cli.doctor.planes import check_planes
from cli.doctor.server import check_server
from cli.doctor.stores import check_store, disk_finding
from store.database import DATABASE_UNUSABLE, Database, unusable_reason
from wire.loaded import store_fingerprint

_TITLES = {"checkpoints": "checkpoint store", "blobs": "blob store"}
_MOST_OF_PLANES_S = 300.0
"""There may be hundreds, each of which may be silent."""
_VARIABLES = {"checkpoints": "HEADWAY_CHECKPOINT_STORE", "blobs": "HEADWAY_BLOB_STORE"}


@dataclass(frozen=True, slots=True)
class Place:
    """What a plane is given here. server: origin under which others call it. database_url: None for a runner. stores:
    URLs, by what is in them; None where none is given here."""

    plane: Plane
    data_dir: Path
    trust: Trust
    server: str | None = None
    runner_key: str | None = None
    database_url: str | None = None
    stores: Mapping[str, str | None] = field(default_factory=dict[str, str | None])
    sampler_token: str | None = None

    def examine(self) -> tuple[list[Finding], bool]:
        """What was found, and whether the database can be asked for its invariants."""
        findings = self._server()
        is_usable = False
        if self.database_url:
            about_database = examined(PART, partial(check_database, self.database_url))
            is_usable = all(f.state is not State.NOT_OK for f in about_database if f.what in ("reachable", "schema"))
            findings += about_database
        for name, url in self.stores.items():
            title = _TITLES[name]
            findings += examined(title, partial(check_store, title, url)) if url else [_not_given(name)]
        findings += examined("data folder", lambda: [disk_finding("data folder", self.data_dir.resolve())])
        if self.database_url and is_usable:
            findings += examined("planes", partial(self._planes, self.database_url), _MOST_OF_PLANES_S)
        return findings, is_usable

    def _server(self) -> list[Finding]:
        if self.server is None:
            return []
        return check_server(self.server, Trust(self.trust.context), self.runner_key)

    def _planes(self, database_url: str) -> list[Finding]:
        database = Database(database_url, pool_size=1)
        stores = {name: store_fingerprint(url) for name, url in self.stores.items() if url}
        reach = self.plane is Plane.SERVER
        try:
            return check_planes(database, self.trust, self.sampler_token, stores, reach=reach)
        except DATABASE_UNUSABLE as error:
            reason = unusable_reason(error)
            if reason is None:
                raise
            return [Finding("planes", "registered", State.UNKNOWN, reason)]
        finally:
            database.close()


def _not_given(name: str) -> Finding:
    remedy = f"set {_VARIABLES[name]}, or HEADWAY_DATA_DIR, as planes have it"
    return Finding(_TITLES[name], "reachable", State.UNKNOWN, "none is named here", remedy)
