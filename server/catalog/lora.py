"""The shape of a fork's adapter: what a request chooses of it, and what base, samplers and trained weights allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from server.catalog.types import LoraChoice, LoraShape
from store.planes.registration import highest_lora_rank
from store.tables import CheckpointRow, ModelRow
from wire.errors import Conflict, InvalidRequest
from wire.lora import LoraConfig

_USUAL_PARTS = LoraConfig().parts


def shape_of(model: ModelRow, base: ModelRow | None) -> LoraShape | None:
    """A model's adapter, as clients read it; None for what has none."""
    return None if base is None else shape_on(base.info, lora_of(model))


def shape_on(info: Mapping[str, Any] | None, lora: LoraConfig) -> LoraShape:
    """An adapter on a base, of which trainers have read `info`."""
    names: Mapping[str, Sequence[str]] | None = (info or {}).get("lora_layers")
    layers = None if names is None else sorted({name for part in lora.parts for name in names.get(part, ())})
    targets: Any = lora.parts
    return LoraShape(rank=lora.rank, alpha=lora.alpha, targets=targets, seed=lora.init_seed, layers=layers)


def lora_of(model: ModelRow) -> LoraConfig:
    """A fork's adapter, as trainers read its row."""
    return LoraConfig(**(model.lora or {}))


async def choose_lora(
    session: AsyncSession,
    source: ModelRow,
    base: ModelRow,
    head: CheckpointRow | None,
    default: LoraConfig,
    choice: LoraChoice | None,
) -> dict[str, Any]:
    """The adapter of a fork of `source` (the base itself, or a model on it) at `head` (None: the base weights).

    Raises Conflict where the head's weights have another shape than the one that is chosen, InvalidRequest for one that
    the base or its samplers do not allow.
    """
    inherited = None if source is base else lora_of(source)
    lora = _chosen(inherited or default, choice)
    if inherited is not None and lora == inherited:
        return asdict(lora)
    if inherited is not None and head is not None:
        raise Conflict(
            f"{source.slug!r} is trained: its adapter has {inherited.sentence}, seed {inherited.init_seed}, and so has "
            f"that of a fork. Leave lora out, or fork {base.slug!r} for another"
        )
    names_parts = choice is not None and choice.targets is not None
    if names_parts or lora.parts != _USUAL_PARTS:
        _require_parts(base, lora)
    await require_servable(session, base, lora, "lora.rank")
    return asdict(lora)


def part_left_out(base: ModelRow, lora: LoraConfig) -> str | None:
    """A part of the adapter in which the base has weights that adapters leave out, or has none, if a trainer said."""
    adapted: Sequence[str] = (base.info or {}).get("adapted_parts", lora.parts)
    return next((part for part in lora.parts if part not in adapted), None)


async def require_servable(session: AsyncSession, base: ModelRow, lora: LoraConfig, param: str) -> None:
    """Raises InvalidRequest for a rank that no live sampler of the base would load."""
    highest = await highest_lora_rank(session, base.id)
    if highest is not None and lora.rank > highest:
        raise InvalidRequest(
            f"the samplers of {base.slug!r} serve adapters up to rank {highest}, not {lora.rank}; choose a lower rank, "
            "or start them with a higher --vllm-max-lora-rank (HEADWAY_VLLM_MAX_LORA_RANK)",
            param=param,
        )


def _chosen(default: LoraConfig, choice: LoraChoice | None) -> LoraConfig:
    if choice is None:
        return default
    said = {"rank": choice.rank, "alpha": choice.alpha, "init_seed": choice.seed}
    lora = replace(default, **{name: value for name, value in said.items() if value is not None})
    return lora if choice.targets is None else lora.on(choice.targets)


def _require_parts(base: ModelRow, lora: LoraConfig) -> None:
    info = base.info or {}
    if (part := part_left_out(base, lora)) is not None:
        has = ", ".join(info["adapted_parts"]) or "none"
        raise InvalidRequest(
            f"adapters of {base.slug!r} cannot be on the whole of its {part}, of which it has weights that are no "
            f"linear layers, or none; lora.targets may be: {has}",
            param="lora.targets",
        )
    names: Mapping[str, Sequence[str]] = info.get("lora_layers", {})
    others = {name for part in names if part not in lora.parts for name in names[part]}
    if shared := sorted(others & {name for part in lora.parts for name in names.get(part, ())}):
        raise InvalidRequest(
            f"{base.slug!r} has layers called {shared[0]} in parts of lora.targets and in others; choose all of these "
            f"parts: {', '.join(part for part in names if shared[0] in names[part])}",
            param="lora.targets",
        )
