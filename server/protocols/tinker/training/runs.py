"""Making training runs, on a base or from saved weights, and what a client asks about them."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal

from pydantic import Field

from server.catalog.bases import public_name
from server.catalog.run_ids import run_id
from server.catalog.runs import NewRun, RunKey, create_run, get_run
from server.http.authentication import CallerDep, ReporterDep
from server.http.context import ContextDep
from server.protocols.tinker.shared.routing import TinkerRouter
from server.protocols.tinker.shared.schemas import Future, Metadata, TinkerReply, TinkerRequest
from server.protocols.tinker.training.numbered import Closed
from server.protocols.tinker.training.settled import settled_future
from server.values.sanitizing import storable_json
from store.tables import ModelRow
from wire.errors import InvalidRequest
from wire.lora import MAX_INIT_SEED, MAX_LORA_RANK

router = TinkerRouter()

_ALPHA = 32
_SEEDS = 2**31
_ADAM = "adamw"


class Lora(Closed):
    """The shape of an adapter. seed: of its start; null for any."""

    rank: Annotated[int, Field(ge=1, le=MAX_LORA_RANK)] = 32
    seed: Annotated[int, Field(ge=0, le=MAX_INIT_SEED)] | None = None
    train_mlp: bool = True
    train_attn: bool = True
    train_unembed: bool = True


class Optimizer(TinkerRequest):
    """The kind of optimizer, fixed for the life of a run."""

    type: str = _ADAM


class CreateModel(TinkerRequest):
    """A run on a base."""

    session_id: str
    model_seq_id: int
    base_model: Annotated[str, Field(max_length=1000)]
    lora_config: Lora | None = None
    user_metadata: Metadata | None = None
    optimizer_config: Optimizer | None = None


class OfRun(TinkerRequest):
    """Which run."""

    model_id: str


class ModelData(TinkerReply):
    """The base. `tokenizer_id`: by which the client loads its tokenizer."""

    arch: str | None
    model_name: str
    tokenizer_id: str


class Info(TinkerReply):
    """A run."""

    type: Literal["get_info"] = "get_info"
    model_id: str
    model_name: str
    model_data: ModelData
    is_lora: bool = True
    lora_rank: int | None
    optimizer_config: Optimizer = Field(default_factory=Optimizer)


@router.post("/create_model")
async def create_model(context: ContextDep, caller: CallerDep, body: CreateModel) -> Future:
    """Make a run on a base, or find the one that this request has made before."""
    check_optimizer(body.optimizer_config)
    new = NewRun(
        RunKey(body.session_id, body.model_seq_id),
        _adapter(body.lora_config or Lora()),
        storable_json(body.user_metadata, "user_metadata"),
    )
    async with context.database.session() as session:
        return settled_future("model", await create_run(session, caller, body.base_model, new))


@router.post("/unload_model")
async def unload_model(context: ContextDep, caller: CallerDep, body: OfRun) -> Future:
    """The client has done with a run. What it takes is given to others anyway, when they need it."""
    async with context.database.session() as session:
        return settled_future("unload", await get_run(session, caller, body.model_id))


@router.post("/get_info")
async def get_info(context: ContextDep, caller: ReporterDep, body: OfRun) -> Info:
    """What a run is trained on."""
    async with context.database.session() as session:
        run = await get_run(session, caller, body.model_id)
        base = await session.get_one(ModelRow, run.base_id)
    name = public_name(base)
    return Info(
        model_id=run_id(run),
        model_name=name,
        model_data=ModelData(arch=(base.info or {}).get("architecture"), model_name=name, tokenizer_id=name),
        lora_rank=(run.lora or {}).get("rank"),
    )


def check_optimizer(optimizer: Optimizer | None) -> None:
    """Raises InvalidRequest for another optimizer than AdamW."""
    if optimizer is not None and optimizer.type != _ADAM:
        raise InvalidRequest(
            f"optimizer_config: this server trains with {_ADAM!r}, not with {optimizer.type[:50]!r}",
            param="optimizer_config",
        )


def _adapter(lora: Lora) -> dict[str, Any]:
    if not (lora.train_attn or lora.train_mlp or lora.train_unembed):
        raise InvalidRequest("lora_config: one of train_attn, train_mlp and train_unembed must be true")
    return {
        "rank": lora.rank,
        "alpha": _ALPHA,
        "init_seed": secrets.randbelow(_SEEDS) if lora.seed is None else lora.seed,
        "attn": lora.train_attn,
        "mlp": lora.train_mlp,
        "unembed": lora.train_unembed,
    }
