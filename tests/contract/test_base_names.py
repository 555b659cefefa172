"""Names by which clients of the Tinker API ask for a base."""

from __future__ import annotations

import uuid

import pytest

from server.catalog.bases import base_by_name, public_name
from store.database import AsyncDatabase
from store.tables import ModelRow
from wire.errors import NotFound


async def test_a_base_answers_to_its_slug_and_its_id_at_a_hub(database: AsyncDatabase):
    mark = uuid.uuid4().hex[:8]
    of_hub, of_folder = f"org-{mark}/Hub-{mark}", f"folder-{mark}"
    async with database.session() as session:
        bases = [(f"hub-{mark}", of_hub), (of_folder, f"/models/{mark}")]
        session.add_all([ModelRow(slug=slug, name=slug, weights=weights) for slug, weights in bases])
    async with database.session() as session:
        for name in (f"hub-{mark}", of_hub, of_hub.upper()):
            assert public_name(await base_by_name(session, name)) == of_hub
        for name in (of_folder, f"Org/{of_folder.upper()}"):
            assert public_name(await base_by_name(session, name)) == of_folder
        for name in (f"other/hub-{mark}", f"{of_folder}x", "\0", ""):
            with pytest.raises(NotFound, match="get_server_capabilities"):
                await base_by_name(session, name)
