"""What is compared: for each curve the steps that lead to its end, and their figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Text, cast, select
from sqlalchemy.ext.asyncio import AsyncSession

from server.catalog.lora import lora_of
from server.catalog.repository import as_uuid
from server.pages.charts.figures import Figure, finite
from server.pages.charts.settings import Across
from server.pages.charts.thinning import Point, thinned
from server.pages.checkpoints.lineage import Lineage, Node, read_lineage
from server.pages.shared.sessions import Visitor
from server.pages.shared.visible_models import find_fork
from store.tables import CheckpointRow, ModelRow
from wire.errors import InvalidRequest

MOST_MODELS = 5
MOST_CURVES = 8
"""As many as there are colours and dashes."""
_MOST_ENDS = 24


@dataclass(frozen=True, slots=True)
class Compared:
    """A model, its tree, and where its curves end: at the head, unless other ends were asked for."""

    model: ModelRow
    lineage: Lineage
    chosen: list[Node]

    @property
    def ends(self) -> list[Node]:
        """Where its branches end, newest first, besides what was asked for."""
        parents = {node.parent_id for node in self.lineage.nodes}
        leaves = [node for node in reversed(self.lineage.steps) if node.id not in parents]
        head = [self.lineage.head] if self.lineage.head is not None else []
        return list({node.id: node for node in (*head, *self.chosen, *leaves[:_MOST_ENDS])}.values())


@dataclass(frozen=True, slots=True)
class Curve:
    """The steps of a model that lead to one end; none: it has not been trained."""

    label: str
    model: ModelRow
    steps: list[Node]

    @property
    def lora(self) -> str:
        """The shape of its adapter."""
        return lora_of(self.model).sentence


def all_curves(compared: Sequence[Compared]) -> list[Curve]:
    """Of each model the path to its head, or to each end that was asked for. Raises InvalidRequest for too many."""
    curves = list[Curve]()
    for one in compared:
        slug, head = one.model.slug, one.lineage.head
        if not one.chosen:
            curves.append(Curve(slug, one.model, _steps(one.lineage, head)))
        curves += [
            Curve(slug if node is head else f"{slug} to {node.name}", one.model, _steps(one.lineage, node))
            for node in one.chosen
        ]
    if len(curves) > MOST_CURVES:
        raise InvalidRequest(f"choose at most {MOST_CURVES} curves, not {len(curves)}: of fewer models, or fewer ends")
    return curves


async def find_models(session: AsyncSession, visitor: Visitor, references: Sequence[str]) -> list[ModelRow]:
    """The models of these ids or names, each once. Raises NotFound, Forbidden and InvalidRequest."""
    if len(set(references)) > MOST_MODELS:
        raise InvalidRequest(f"compare at most {MOST_MODELS} models, not {len(set(references))}")
    found = dict[UUID, ModelRow]()
    for reference in references:
        model, _ = await find_fork(session, visitor, reference)
        found.setdefault(model.id, model)
    return list(found.values())


async def with_trees(session: AsyncSession, models: Sequence[ModelRow], ends: Sequence[str]) -> list[Compared]:
    """The models and their trees. `ends`: ids of checkpoints of theirs.

    Raises InvalidRequest for an end of another model: a curve is never left out silently.
    """
    found, wanted = list[Compared](), list(dict.fromkeys(ends))
    for model in models:
        lineage = await read_lineage(session, model)
        nodes = [lineage.by_id.get(str(as_uuid(end))) for end in wanted]
        found.append(Compared(model, lineage, [node for node in nodes if node is not None]))
    known = {node.id for one in found for node in one.chosen}
    if unknown := [end for end in wanted if str(as_uuid(end)) not in known]:
        raise InvalidRequest(f"{unknown[0][:80]!r} is no checkpoint of these models: leave it out, or add its model")
    return found


async def read_figures(
    session: AsyncSession, curves: Sequence[Curve], figures: Sequence[Figure]
) -> dict[str, tuple[float | None, ...]]:
    """Of every step of the models: its figures, in this order; null where there is no finite number."""
    columns = [finite(one.value).label(f"f{number}") for number, one in enumerate(figures)]
    query = select(cast(CheckpointRow.id, Text), *columns).where(
        CheckpointRow.model_id.in_({curve.model.id for curve in curves}),
        CheckpointRow.status == "committed",
        CheckpointRow.step > 0,
    )
    return {row[0]: row[1:] for row in await session.execute(query)}


def points_of(curve: Curve, values: Callable[[Node], float | None], across: Across, most: int) -> list[list[float]]:
    """Two lists: where the points are, and what they are."""
    places = places_of(curve.steps, across)
    points: list[Point] = [
        (place, value) for place, node in zip(places, curve.steps, strict=True) if (value := values(node)) is not None
    ]
    kept = thinned(points, most)
    return [[place for place, _ in kept], [short(value) for _, value in kept]]


def places_of(steps: Sequence[Node], across: Across) -> list[float]:
    """Where each step is: its number, its seconds after the first, or the tokens up to it."""
    if across == "time":
        return [round(_moment(node) - _moment(steps[0]), 1) for node in steps]
    if across == "tokens":
        total, places = 0, list[float]()
        for node in steps:
            total += node.num_tokens
            places.append(total)
        return places
    return list(range(1, len(steps) + 1)) if across == "order" else [node.step for node in steps]


def short(value: float) -> float:
    """Five significant digits: more cannot be seen, and makes the answer twice as long."""
    return float(f"{value:.5g}")


def _steps(lineage: Lineage, end: Node | None) -> list[Node]:
    return [node for node in lineage.path_to(end) if node.step > 0]


def _moment(node: Node) -> float:
    return node.committed_at.timestamp() if node.committed_at is not None else 0.0
