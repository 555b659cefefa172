"""Tokenizers of bases, for clients that reach no hub. No part of the SDK, which asks a hub by the name of the base."""

from __future__ import annotations

from fastapi.responses import Response

from server.catalog.bases import base_by_name
from server.http.authentication import AnyCallerDep
from server.http.context import ContextDep
from server.protocols.tinker.shared.routing import TinkerRouter
from server.sampling.tokenizer_files import tokenizer_cache

router = TinkerRouter()


@router.get("/tokenizers/{base:path}", response_class=Response)
async def tokenizer(context: ContextDep, caller: AnyCallerDep, base: str) -> Response:
    """The files of a base's tokenizer, as a gzipped tar archive to be unpacked in ~/.cache/huggingface."""
    async with context.database.session() as session:
        row = await base_by_name(session, base)
    archive = await tokenizer_cache(context.sampling, row)
    name = {"Content-Disposition": 'attachment; filename="tokenizer.tar.gz"'}
    return Response(archive, media_type="application/gzip", headers=name)
