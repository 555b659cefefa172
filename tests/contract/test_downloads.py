"""Adapters over HTTP, by links that work without a key."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, update

from server.auth.service import key_hash
from store.checkpoint_stores.file import FileCheckpointStore
from store.tables import ApiKeyRow, CheckpointNameRow
from tests.contract.test_checkpoint_names import ROOT, Run, make_run
from wire.process.logging import without_secrets

FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights" * 1000}


@pytest.fixture
async def run(team: Any, database: Any, base: Any, checkpoint_folder: Path) -> Run:
    """A run with a checkpoint `final`, whose files are in the store."""
    run = await make_run(team, database, base)
    checkpoint_id = await run.save("final", "external")
    store = FileCheckpointStore(checkpoint_folder)
    with store.stage(run.model_id, checkpoint_id) as staged:
        for name, content in FILES.items():
            (staged / "adapter" / name).write_bytes(content)
        (staged / "state" / "state.safetensors").write_bytes(b"moments")
        store.publish(run.model_id, checkpoint_id, staged)
    return run


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """A client without a key."""
    async with httpx.AsyncClient(trust_env=False) as http:
        yield http


async def urls(run: Run) -> dict[str, Any]:
    reply = await run.call("GET", "/checkpoints/external_weights/final/external_weights_urls")
    assert reply.status_code == 200, reply.text
    return reply.json()


async def test_each_file_has_a_url_that_works_without_a_key(run: Run, http: httpx.AsyncClient):
    found = await urls(run)
    fetched = {name: (await http.get(url)).content for name, url in found["urls"].items()}
    assert fetched == FILES
    left = datetime.fromisoformat(found["expires"]) - datetime.now(UTC)
    assert timedelta(minutes=55) < left <= timedelta(hours=1)


async def test_an_archive_is_a_tar_of_the_same_files(run: Run, http: httpx.AsyncClient):
    reply = await run.call("GET", "/checkpoints/external_weights/final/archive")
    assert reply.status_code == 302
    assert parsedate_to_datetime(reply.headers["expires"]) > datetime.now(UTC)
    fetched = await http.get(reply.headers["location"])
    assert fetched.headers["content-length"] == str(len(fetched.content))
    with tarfile.open(fileobj=io.BytesIO(fetched.content)) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar if member.isreg()}  # pyright: ignore[reportOptionalMemberAccess]
    assert members == {**FILES, "checkpoint_complete": b""}


async def test_a_link_ends_with_the_key_that_asked_for_it_and_is_in_no_log(run: Run, http: httpx.AsyncClient):
    url = (await urls(run))["urls"]["adapter_config.json"]
    assert (await http.get(url)).status_code == 200
    assert without_secrets(None, "info", f"path={url}") == f"path={url.split('/hw_')[0]}/[secret]/adapter_config.json"
    async with run.database.session() as session:
        revoked = update(ApiKeyRow).where(ApiKeyRow.key_hash == key_hash(run.team.key))
        await session.execute(revoked.values(revoked_at=func.clock_timestamp()))
    refused = await http.get(url)
    assert (refused.status_code, "expired" in refused.json()["detail"]) == (404, True)


@pytest.mark.parametrize("end", ["deleted", "expired", "moved"])
async def test_a_link_ends_with_the_path_that_it_was_asked_by(run: Run, http: httpx.AsyncClient, end: str):
    url = (await urls(run))["urls"]["adapter_config.json"]
    assert (await http.get(url)).status_code == 200
    if end == "deleted":
        await run.call("DELETE", "/checkpoints/external_weights/final")
    else:
        other = await run.save("other", "external")
        values = {"checkpoint_id": other} if end == "moved" else {"expires_at": func.clock_timestamp()}
        async with run.database.session() as session:
            named = update(CheckpointNameRow).where(CheckpointNameRow.name == "final")
            await session.execute(named.where(CheckpointNameRow.model_id == run.model_id).values(values))
    assert (await http.get(url)).status_code == 404


async def test_a_link_of_another_team_ends_with_the_publication(run: Run, other_team: Any, http: httpx.AsyncClient):
    await run.call("POST", "/checkpoints/external_weights/final/publish")
    where = f"{ROOT}/training_runs/{run.id}/checkpoints/external_weights/final/external_weights_urls"
    theirs = (await other_team.http.get(where)).json()["urls"]["adapter_config.json"]
    assert (await http.get(theirs)).status_code == 200
    await run.call("DELETE", "/checkpoints/external_weights/final/publish")
    assert (await http.get(theirs)).status_code == 404


async def test_nobody_makes_a_link_or_changes_one(run: Run, http: httpx.AsyncClient):
    url = (await urls(run))["urls"]["adapter_config.json"]
    token = url.split("/")[-2]
    checkpoint, name, key, until, signature = token.removeprefix("hw_").split("-")
    for forged in (
        f"hw_{key}-{name}-{key}-{until}-{signature}",
        f"hw_{checkpoint}-node-{key}-{until}-{signature}",
        f"hw_{checkpoint}-{name}-{key}-{int(until) + 1}-{signature}",
        f"hw_{checkpoint}-{name}-{key}-1-{signature}",
        f"hw_{checkpoint}-{name}-{key}-{until}-{'0' * 64}",
        "x",
    ):
        assert (await http.get(url.replace(token, forged))).status_code == 404
    assert (await http.get(url.replace("adapter_config.json", "state.safetensors"))).status_code == 404


async def test_files_of_others_are_not_there(run: Run, other_team: Any):
    where = f"{ROOT}/training_runs/{run.id}/checkpoints/external_weights/final"
    for what in ("archive", "external_weights_urls"):
        assert (await other_team.http.get(f"{where}/{what}")).status_code == 404
    await run.call("POST", "/checkpoints/external_weights/final/publish")
    assert (await other_team.http.get(f"{where}/external_weights_urls")).status_code == 200
