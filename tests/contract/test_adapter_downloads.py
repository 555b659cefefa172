"""The adapter of a checkpoint as one archive, over HTTP with a key."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import uuid
from pathlib import Path
from typing import Any

import pytest

from server.checkpoint_names.adapter_files import OpenFile, content
from server.checkpoint_names.tar_archives import TarArchive
from store.checkpoint_stores.file import FileCheckpointStore
from store.tables import CheckpointRow, EvalRow, ModelRow
from tests.contract.conftest import Team
from wire.errors import CorruptCheckpoint

CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "/srv/private/base"}
FILES = {"adapter_config.json": json.dumps(CONFIG).encode(), "adapter_model.safetensors": b"weights" * 999}


@pytest.fixture
async def trained(team: Team, model: dict[str, Any], database: Any, checkpoint_folder: Path) -> dict[str, Any]:
    """A model with a step whose files are in the store."""
    step = await team.step(model["id"])
    await write_files(database, checkpoint_folder, uuid.UUID(step["checkpoint_id"]))
    return {**model, "checkpoint_id": step["checkpoint_id"]}


async def write_files(database: Any, folder: Path, checkpoint_id: uuid.UUID) -> None:
    async with database.session() as session:
        row = await session.get_one(CheckpointRow, checkpoint_id)
        store = FileCheckpointStore(folder)
        with store.stage(row.model_id, row.id) as staged:
            for name, written in FILES.items():
                (staged / "adapter" / name).write_bytes(written)
            row.manifest = store.publish(row.model_id, row.id, staged).to_json()


def path_of(model: dict[str, Any], checkpoint: str = "head") -> str:
    return f"/v2/models/{model['model_name']}/checkpoints/{checkpoint}/adapter"


def members_of(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # pyright: ignore[reportOptionalMemberAccess]


async def test_the_archive_is_pefts_folder_with_a_readme_and_the_bases_public_name(team, trained, base, database):
    async with database.session() as session:
        ids = {"model_id": uuid.UUID(trained["id"]), "checkpoint_id": uuid.UUID(trained["checkpoint_id"])}
        session.add(EvalRow(benchmark="sums | more", score=0.75, higher_is_better=True, mixed=False, **ids))
        node = (await session.get_one(CheckpointRow, ids["checkpoint_id"])).name
    reply = await team.http.get(path_of(trained))
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-length"] == str(len(reply.content))
    assert reply.headers["content-disposition"] == f'attachment; filename="{trained["model_name"]}-{node}.tar"'
    found = members_of(reply.content)
    assert list(found) == ["adapter_config.json", "adapter_model.safetensors", "README.md"]
    assert found["adapter_model.safetensors"] == FILES["adapter_model.safetensors"]
    assert json.loads(found["adapter_config.json"]) == {**CONFIG, "base_model_name_or_path": base.slug}
    readme = found["README.md"].decode()
    digest = hashlib.sha256(FILES["adapter_model.safetensors"]).hexdigest()
    for fact in (trained["model_name"], node, base.slug, digest, "| step | 1 |", "| sums \\| more | 0.75 |"):
        assert fact in readme
    assert "private" not in reply.content.decode(errors="ignore")


async def test_a_checkpoint_is_named_by_id_by_name_or_as_the_head(team, trained):
    [node] = (await team.http.get(f"/v2/models/{trained['id']}/checkpoints")).json()
    by_name = [await team.http.get(path_of(trained, name)) for name in (node["id"], node["name"], "head")]
    assert len({reply.content for reply in by_name}) == 1
    assert (await team.http.get(path_of(trained, "0009-none"))).status_code == 404


async def test_head_etag_and_ranges(team, trained):
    whole = await team.http.get(path_of(trained))
    head = await team.http.head(path_of(trained))
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(whole.content)))
    assert head.headers["etag"] == whole.headers["etag"]
    same = await team.http.get(path_of(trained), headers={"If-None-Match": whole.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    size = len(whole.content)
    ranges = {"bytes=700-": slice(700, None), "bytes=0-0": slice(0, 1), "bytes=-5": slice(size - 5, None)}
    for asked, part in ranges.items():
        reply = await team.http.get(path_of(trained), headers={"Range": asked})
        assert (reply.status_code, reply.content) == (206, whole.content[part]), asked
        assert reply.headers["content-range"].endswith(f"/{size}")
    for ignored in ({"Range": "lines=1-2"}, {"Range": "bytes=-"}, {"Range": "bytes=1-", "If-Range": '"other"'}):
        assert (await team.http.get(path_of(trained), headers=ignored)).status_code == 200
    assert (await team.http.get(path_of(trained), headers={"Range": f"bytes={size}-"})).status_code == 416


async def test_what_has_no_adapter_is_refused_with_a_sentence(team, model, trained, base, database):
    fresh = await team.fork(str(base.id))
    refused = await team.http.get(path_of(fresh))
    assert (refused.status_code, "base weights" in refused.json()["detail"]) == (409, True)
    of_base = await team.http.get(f"/v2/models/{base.id}/checkpoints/head/adapter")
    assert (of_base.status_code, "base model" in of_base.json()["detail"]) == (409, True)
    async with database.session() as session:
        row = await session.get_one(ModelRow, uuid.UUID(trained["id"]))
        thinned = await session.get_one(CheckpointRow, row.head_checkpoint_id)
        thinned.files_removed_at = thinned.created_at
        row.head_checkpoint_id = None
    gone = await team.http.get(path_of(trained, thinned.name))
    assert (gone.status_code, "were removed" in gone.json()["detail"]) == (410, True)


async def test_a_file_that_is_altered_meanwhile_does_not_come_to_its_length():
    good = b"0123456789" * 300_000
    for altered in (b"x" + good[1:], good[:-1]):
        file = OpenFile("weights", len(good), io.BytesIO(altered), hashlib.sha256(good).hexdigest())
        archive, sent = TarArchive([file]), list[int]()
        with pytest.raises(CorruptCheckpoint):
            await _read(archive, sent)
        assert sum(sent) < archive.size
    assert b"".join([piece async for piece in content(OpenFile("w", len(good), io.BytesIO(good)))]) == good


async def _read(archive: TarArchive, sent: list[int]) -> None:
    async for piece in archive.stream():
        sent.append(len(piece))
