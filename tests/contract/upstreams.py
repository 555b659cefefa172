"""Models of a vendor in the catalog of the tests' server."""

from __future__ import annotations

from server.audit.recording import COMMAND_LINE
from server.upstreams.catalog import add_upstream
from server.upstreams.types import Upstream
from store.database import AsyncDatabase
from tests.vendor import Vendor


async def add_to_catalog(database: AsyncDatabase, vendor: Vendor, name: str, api: str) -> str:
    """Its id."""
    settings = {"api": api, "base_url": vendor.base_url(api), "model": f"vendor-{api}"}
    upstream = Upstream.model_validate({**settings, "key_file": str(vendor.key_file)})
    async with database.session() as session:
        return str((await add_upstream(session, name, upstream, COMMAND_LINE)).id)
