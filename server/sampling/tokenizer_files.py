"""A base's tokenizer as a part of a hub's cache, from a sampler of the base: the server itself has no weights."""

from __future__ import annotations

import asyncio
import hashlib
import io
import tarfile
from collections.abc import Iterable

from sqlalchemy import select

from server.catalog.bases import public_name
from server.sampling.collaborators import Sampling
from server.sampling.sampler_client import SamplerGone
from store.planes.registration import takes_requests
from store.tables import ModelRow, SamplerRow
from wire.errors import Unavailable


async def tokenizer_cache(sampling: Sampling, base: ModelRow) -> bytes:
    """A gzipped tar archive to be unpacked in the folder that HF_HOME names (`~/.cache/huggingface`): the tokenizer is
    found there by the base's id at the hub, and by its slug. Raises Unavailable while no sampler of it serves; one is
    asked for then."""
    sampling.dispatch.demand.asked(base.id)
    async with sampling.database.session() as session:
        serving = select(SamplerRow.url).where(SamplerRow.base_id == base.id, takes_requests())
        urls = list(await session.scalars(serving.order_by(SamplerRow.started_at)))
    refusal = Unavailable(f"no sampler for the base {base.slug!r} serves, which would have its tokenizer; try again")
    for url in urls:
        try:
            files = await sampling.client.tokenizer(url)
        except SamplerGone as gone:
            refusal = gone
            continue
        return await asyncio.to_thread(hub_cache, files, dict.fromkeys((public_name(base), base.slug)))
    raise refusal


def hub_cache(files: bytes, names: Iterable[str]) -> bytes:
    """The files of an archive, as the hub's client keeps them for each of these names."""
    revision = hashlib.sha1(files, usedforsecurity=False).hexdigest()
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as tar, tarfile.open(fileobj=io.BytesIO(files)) as given:
        members = [(member.name, opened.read()) for member in given if (opened := given.extractfile(member))]
        for name in names:
            folder = f"hub/models--{name.replace('/', '--')}"
            _add(tar, f"{folder}/refs/main", revision.encode())
            for file_name, content in members:
                _add(tar, f"{folder}/snapshots/{revision}/{file_name}", content)
    return written.getvalue()


def _add(tar: tarfile.TarFile, path: str, content: bytes) -> None:
    about = tarfile.TarInfo(path)
    about.size = len(content)
    tar.addfile(about, io.BytesIO(content))
