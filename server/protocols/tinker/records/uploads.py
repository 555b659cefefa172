"""Uploads of adapters that were made elsewhere. No part of the SDK before 0.39."""

from __future__ import annotations

import asyncio
import tempfile
from typing import Annotated

from fastapi import Depends, Query, Request

from server.checkpoint_names.uploading import Upload, upload_adapter
from server.http.authentication import CallerDep
from server.http.context import ContextDep
from server.http.disconnects import body_chunks
from server.http.request_body import COUNTED_BY_ITS_READER
from server.protocols.tinker.shared.routing import TinkerRouter
from server.protocols.tinker.shared.schemas import TinkerReply
from wire.errors import TooLarge

router = TinkerRouter()

_Text = Annotated[str, Query(min_length=1, max_length=200)]


class Uploaded(TinkerReply):
    """Where the adapter is, to be trained further; under the same name in sampler_weights/, to be sampled."""

    tinker_path: str


@router.post(
    "/external_weights_upload",
    dependencies=[Depends(COUNTED_BY_ITS_READER)],
    openapi_extra={"requestBody": {"required": True, "content": {"application/x-tar": {"schema": {"type": "string"}}}}},
)
async def upload(
    context: ContextDep,
    caller: CallerDep,
    request: Request,
    base_model: _Text,
    slug: _Text,
    name: _Text = "uploaded",
    ttl_seconds: Annotated[int | None, Query(ge=-(2**53), le=2**53)] = None,
) -> Uploaded:
    """Make a model whose tree begins with an adapter. The body is a tar archive of `adapter_config.json` and
    `adapter_model.safetensors`."""
    most = context.settings.limits.training_body_bytes
    with tempfile.TemporaryFile() as archive:
        num_bytes = 0
        async for chunk in body_chunks(request, "its adapter"):
            num_bytes += len(chunk)
            if num_bytes > most:
                raise TooLarge(f"the adapter is larger than {most} bytes, the most that this server takes")
            await asyncio.to_thread(archive.write, chunk)
        archive.seek(0)
        wanted = Upload(base_model, slug, name, ttl_seconds)
        store, asked = context.adapter_files.store, context.sampling.dispatch.demand.asked
        return Uploaded(tinker_path=await upload_adapter(context.heads, asked, store, caller, wanted, archive))
