"""Composition root of a server process."""

from __future__ import annotations

from pathlib import Path

import uvicorn

from server.app import create_app
from server.settings import Limits, ServerSettings, UpkeepSettings

_SHUTDOWN_S = 10


def serve(
    *,
    database_url: str,
    blob_root: Path,
    sampler_token: str,
    host: str = "127.0.0.1",
    port: int = 8420,
    limits: Limits | None = None,
    upkeep: UpkeepSettings | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; requests in flight get a few seconds to end."""
    settings = ServerSettings(database_url, blob_root, sampler_token, limits=limits or Limits(), upkeep=upkeep)
    uvicorn.run(
        create_app(settings),
        host=host,
        port=port,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=_SHUTDOWN_S,
    )
