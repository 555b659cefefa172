"""`GET /metrics`, for a scraper with the token of its own, or for an admin."""

from __future__ import annotations

from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy.exc import SQLAlchemyError

from server.http.authentication import SCRAPERS
from server.http.context import Context, ContextDep
from server.http.routing import KeyedRouter
from server.metrics.census import census_exposition
from server.metrics.workers import exposition
from store.blob_stores import folder_of
from store.census import Census, take_census

router = KeyedRouter(tags=["operations"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    dependencies=[SCRAPERS],
)
async def metrics(context: ContextDep) -> Response:
    """What this server (all its worker processes) has counted, and what the database knows, for Prometheus."""
    census = await _census(context)
    folder, policy = folder_of(context.settings.blob_store_url), context.settings.elastic.policy
    known = census_exposition(census, folder, policy)
    return Response(exposition(context.metrics.registry) + known, media_type=CONTENT_TYPE_LATEST)


async def _census(context: Context) -> Census | None:
    try:
        async with context.background.session() as session:
            return await session.run_sync(take_census)
    except SQLAlchemyError:
        return None
