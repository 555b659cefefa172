"""What the SDK asks first: whether the service is there, how it wants to be called, and which models it has."""

from __future__ import annotations

from pydantic import BaseModel
from sqlalchemy import and_, func, select

from server.catalog.bases import public_name
from server.http.access import ANYBODY
from server.http.authentication import AnyCallerDep
from server.http.context import ContextDep
from server.protocols.tinker.shared.routing import TinkerRouter
from server.protocols.tinker.shared.schemas import TinkerReply
from store.planes.registration import takes_requests
from store.tables import ModelRow, SamplerRow

router = TinkerRouter()

_CHUNK_DATUMS, _CHUNK_BYTES = 16_384, 20_000_000


class Health(BaseModel):
    """The server answers."""

    status: str = "ok"


class ClientConfig(BaseModel):
    """How a client shall behave. What is not here stays as the SDK has it by itself.

    Gradient passes come as compressed protobuf, in few parts: each is an operation of its own. Keys are sent as they
    are, and losses that the client made run in the client.
    """

    pjwt_auth_enabled: bool = False
    credential_default_source: str = "api_key"
    proto_write_fwdbwd: bool = True
    fwd_via_fwdbwd: bool = True
    proto_compress_fwdbwd: bool = True
    parallel_fwdbwd_chunks: bool = True
    fwdbwd_max_chunk_len: int = _CHUNK_DATUMS
    fwdbwd_max_chunk_bytes_count: int = _CHUNK_BYTES
    create_model_via_load_weights: bool = True
    custom_loss_server_side: bool = False
    sample_use_retrieve_futures: bool = True
    sample_join_sampling_session: bool = True


class DynamicConfig(BaseModel):
    """What a client asks for again every so often."""

    refresh_interval_sec: int = 300
    sample_cancel_enabled: bool = True


class SupportedModel(TinkerReply):
    """A base model. `trainable`: a trainer has loaded it once; `sampleable`: a sampler serves it now."""

    model_name: str
    max_context_length: int | None
    trainable: bool
    sampleable: bool


class ServerCapabilities(BaseModel):
    """What there is to train and to sample."""

    supported_models: list[SupportedModel]


@router.get("/healthz", dependencies=[ANYBODY])
async def healthz() -> Health:
    """The server answers."""
    return Health()


@router.post("/client/config")
async def client_config(caller: AnyCallerDep) -> ClientConfig:
    """How a client shall behave, asked for when one is made."""
    return ClientConfig()


@router.post("/client/dynamic_config")
async def dynamic_config(caller: AnyCallerDep) -> DynamicConfig:
    """How a client shall behave from now on."""
    return DynamicConfig()


@router.get("/get_server_capabilities")
async def server_capabilities(context: ContextDep, caller: AnyCallerDep) -> ServerCapabilities:
    """The base models of the catalog. Where samplers are started when they are asked for, one that has none can be
    sampled as well."""
    comes_when_asked = context.settings.elastic.idle_s > 0
    serves = and_(SamplerRow.base_id == ModelRow.id, takes_requests())
    query = (
        select(ModelRow, func.count(SamplerRow.id))
        .outerjoin(SamplerRow, serves)
        .where(ModelRow.weights.is_not(None))
        .group_by(ModelRow.id)
        .order_by(ModelRow.created_at, ModelRow.id)
    )
    async with context.database.session() as session:
        rows = [(base, num_samplers) for base, num_samplers in await session.execute(query)]
    return ServerCapabilities(
        supported_models=[
            SupportedModel(
                model_name=public_name(base),
                max_context_length=(base.info or {}).get("context_length"),
                trainable=base.info is not None,
                sampleable=num_samplers > 0 or comes_when_asked,
            )
            for base, num_samplers in rows
        ]
    )
