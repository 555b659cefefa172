"""The model catalog, forks, checkpoint trees and heads, as clients read and write them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field

from server.values.closed_requests import Closed
from server.values.texts import Sentence, Tag
from wire.lora import MAX_INIT_SEED, MAX_LORA_ALPHA, MAX_LORA_RANK


def _of_the_text_part(part: Any) -> Any:
    if part == "vision":
        raise ValueError("the tower of a base that reads pictures stays as it is; take attn, mlp or unembed")
    return part


LoraPart: TypeAlias = Annotated[Literal["attn", "mlp", "unembed"], BeforeValidator(_of_the_text_part)]


class Provider(BaseModel):
    """Who serves a model."""

    name: str = "headway"


class UpstreamModel(BaseModel):
    """Another vendor's model: the API in which it is asked, and what the vendor calls it."""

    api: str
    model: str


class LoraShape(BaseModel):
    """A model's adapter. Its update is alpha / rank · B · A. targets: the parts of the base that it is on. seed: of A's
    random start; B starts at zero. `layers`: names of the linear layers that these parts have, as in the
    `target_modules` of an export; null until a trainer has loaded the base."""

    rank: int
    alpha: int
    targets: list[LoraPart]
    seed: int
    layers: list[str] | None = None


class CatalogModel(BaseModel):
    """One row of the catalog. `sdk_agent_type` makes the SDK choose the agent that captures token ids.

    is_trainable: a fork of it can be trained, also of a base, which is not trained itself: `hud models list` marks what
    can be forked. `base_model`: null for a base.
    sharing: which tokens of a training pass are computed once. "prefixes": all that sequences have in common;
    "nothing": only the turns of a trajectory are merged, for the base model did not prove more when it was loaded;
    null until a trainer has loaded it. `lora`: null for a base. `paused_at`: since then training calls are refused, for
    `pause_reason`.
    `input_modalities`: what prompts may hold, "text", or "text" and "image"; null for another vendor's model, and until
    a trainer has loaded the base.
    `upstream`: of another vendor's model, which is sampled here and never trained. `description` and `tags`: what its
    team wrote about it.
    """

    id: str
    name: str
    model_name: str
    sdk_agent_type: str = "openai_compatible"
    is_trainable: bool
    provider: Provider = Field(default_factory=Provider)
    created_at: datetime
    base_model: str | None
    head_checkpoint_id: str | None
    sharing: str | None = None
    lora: LoraShape | None = None
    paused_at: datetime | None = None
    pause_reason: str | None = None
    upstream: UpstreamModel | None = None
    description: str | None = None
    tags: list[str] = Field(default_factory=list[str])
    input_modalities: list[str] | None = None


class CatalogPage(BaseModel):
    """One page of the catalog; `total` counts all of it."""

    items: list[CatalogModel]
    total: int


class TeamModel(BaseModel):
    """A row of the catalog as hud-python 0.5 reads it."""

    id: str
    name: str
    model_name: str
    is_trainable: bool
    status: str = "ready"
    public: bool
    provider: Provider = Field(default_factory=Provider)
    base_model: str | None


class TeamModels(BaseModel):
    """The catalog as hud-python 0.5 reads it."""

    models: list[TeamModel]


class LoraChoice(Closed):
    """What of an adapter's shape is chosen; what is left out is the server's default (`headway server --lora-rank` and
    the like; seed 0). targets: attn (layers that mix tokens), mlp (all other linear layers inside of the layers),
    unembed (the unembedding)."""

    rank: Annotated[int, Field(ge=1, le=MAX_LORA_RANK)] | None = None
    alpha: Annotated[int, Field(ge=1, le=MAX_LORA_ALPHA)] | None = None
    targets: Annotated[list[LoraPart] | None, FailFast(), Field(min_length=1, max_length=3)] = None
    seed: Annotated[int, Field(ge=0, le=MAX_INIT_SEED)] | None = None


class ForkRequest(BaseModel):
    """A new trainable model that starts where the source's head is. lora: the shape of its adapter; a fork of trained
    weights has that of its source."""

    source_model_id: str
    name: str
    lora: LoraChoice | None = None


class ModelChange(Closed):
    """What shall be different; what is not named stays. name: what the model is called in requests, its slug too.
    description: null for none. tags: all of them."""

    name: str | None = None
    description: Sentence | None = None
    tags: Annotated[list[Tag], Field(fail_fast=True, max_length=20)] | None = None


class LiveRun(BaseModel):
    """A run that trains a model now."""

    id: str
    state: str


class ModelContents(BaseModel):
    """What hangs on a model, and what becomes of it when the model is deleted.

    num_bytes: of its checkpoints' files; num_bytes_kept: of these, what stays as long as the models need it that began
    at them: `forks` of the team, by slug (the first ones), and `num_forks_of_others`. num_calls: training calls that
    wait, which would be answered with 409. num_paths: `tinker://` paths, which stop working; num_published: of these,
    those that every team may use. num_open_samplers: sampling sessions that end. num_rollouts: these stay, as do runs.
    blockers: why it cannot be deleted now.
    """

    model: str
    num_checkpoints: int
    num_bytes: int
    num_bytes_kept: int
    num_forks: int
    forks: list[str]
    num_forks_of_others: int
    live_runs: list[LiveRun]
    num_runs: int
    num_rollouts: int
    num_paths: int
    num_published: int
    num_open_samplers: int
    num_calls: int
    blockers: list[str]


class CheckpointDeleted(BaseModel):
    """It stays in the tree as history. num_bytes: what the next collection frees."""

    id: str
    name: str
    num_bytes: int


class CheckpointNode(BaseModel):
    """One node of a model's checkpoint tree. `checkpoint_name` is the sampler path that `optim_step` returned. Without
    optimizer state, training goes on from it with fresh moments; without files it can be no head any more."""

    id: str
    name: str
    checkpoint_name: str
    prev_model_checkpoint_id: str | None
    is_active: bool
    step: int
    created_at: datetime
    num_traces: int | None
    num_datums: int | None
    num_tokens: int | None
    mean_reward: float | None
    learning_rate: float | None
    loss_fn: str | None
    metrics: dict[str, Any]
    has_files: bool = True
    has_optimizer_state: bool = True
    is_pinned: bool = False


class PauseRequest(BaseModel):
    """Why a model shall not be trained for now; callers get it in the error."""

    model_config = ConfigDict(extra="forbid")

    reason: Sentence


class Head(BaseModel):
    """Which checkpoint is the head; null: the base weights. `fresh_moments`: its optimizer state was thinned, so that
    the next step starts with new moments."""

    model_id: str
    checkpoint_id: str | None
    checkpoint_name: str | None = None
    step: int | None = None
    fresh_moments: bool = False
