"""`/models/<id>/checkpoints/<checkpoint>/adapter`: the adapter, for whoever is signed in."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from server.checkpoint_names.packing import pack_adapter
from server.http.archive_replies import archive_reply
from server.http.context import ContextDep
from server.pages.shared.routing import PageRouter
from server.pages.shared.signing_in import VisitorDep

router = PageRouter()


@router.get("/models/{model_id}/checkpoints/{checkpoint}/adapter", response_class=StreamingResponse)
async def download(
    context: ContextDep, request: Request, visitor: VisitorDep, model_id: str, checkpoint: str
) -> Response:
    """The archive that the API gives for a key."""
    packed = await pack_adapter(context.heads, context.adapter_files, visitor.caller, model_id, checkpoint)
    return archive_reply(request, packed)
