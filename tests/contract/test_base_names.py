"""Names by which clients of the Tinker API ask for a base."""

from __future__ import annotations

import io
import tarfile
import uuid

import pytest

from server.catalog.bases import base_by_name, public_name
from store.database import AsyncDatabase
from store.tables import ModelRow
from wire.errors import NotFound


async def test_a_tokenizer_comes_as_a_part_of_a_hub_s_cache(standing_team, base):
    reply = await standing_team.http.get(f"/api/v1/tokenizers/{base.slug}")
    assert reply.headers["content-type"] == "application/gzip"
    with tarfile.open(fileobj=io.BytesIO(reply.content)) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}  # pyright: ignore[reportOptionalMemberAccess]
    folder = "hub/models--org--Tiny-Base"
    revision = files.pop(f"{folder}/refs/main").decode()
    assert files == {f"{folder}/snapshots/{revision}/tokenizer.json": b"{}"}


async def test_a_tokenizer_without_a_sampler_is_out_of_reach_for_now(database: AsyncDatabase, standing_team):
    mark = uuid.uuid4().hex[:8]
    async with database.session() as session:
        session.add(ModelRow(slug=mark, name=mark, weights="/nowhere"))
    refused = await standing_team.http.get(f"/api/v1/tokenizers/{mark}")
    assert (refused.status_code, "no sampler" in refused.json()["detail"]) == (503, True)
    assert (await standing_team.http.get("/api/v1/tokenizers/unknown")).status_code == 404


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
            with pytest.raises(NotFound, match=r"this server has '.+ \(get_server_capabilities lists"):
                await base_by_name(session, name)
