"""The laid-out tree in pixels, with what each item says and where it leads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from server.pages.checkpoints.lineage import Lineage, Node
from server.pages.checkpoints.tree_layout import Item
from server.pages.shared.formats import count, figure

_COLUMN, _LANE, _LEFT, _TOP = 52, 56, 34, 34
_SHADES = 5


@dataclass(frozen=True, slots=True)
class Mark:
    """An item of the picture. `shade`: 0 to 4 by reward, -1 without one."""

    id: str
    kind: str
    x: int
    y: int
    label: str
    text: str
    link: str
    classes: str
    edge: str
    folded: int


@dataclass(frozen=True, slots=True)
class Picture:
    """Marks, and the size of the whole."""

    marks: list[Mark]
    width: int
    height: int


def draw(lineage: Lineage, items: Sequence[Item], chosen: Node | None, path: str, base: str) -> Picture:
    """The picture. `path`: of the model's page; `base`: what its first item is called."""
    rewards = [node.mean_reward for node in lineage.nodes if node.mean_reward is not None]
    low, high = (min(rewards), max(rewards)) if rewards else (0.0, 0.0)
    on_path = lineage.ids_on_path
    marks: list[Mark] = []
    for item in items:
        kind = "run" if item.is_run else "node" if item.nodes else "base"
        is_path = all(node.id in on_path for node in item.nodes)
        classes = [kind, "on-path" if is_path else "off-path", *_states(lineage, item, chosen)]
        if kind == "node":
            classes.append(f"shade-{_shade(item.nodes[0].mean_reward, low, high)}")
        marks.append(
            Mark(
                id=f"n-{item.nodes[0].id.replace('-', '')}" if item.nodes else "n-base",
                kind=kind,
                x=_x(item),
                y=_y(item),
                label=_label(lineage, item, base),
                text=_text(item),
                link=_link(item, path),
                classes=" ".join(classes),
                edge=_edge(item),
                folded=item.folded,
            )
        )
    return Picture(marks, max(map(_x, items)) + _COLUMN, max(map(_y, items)) + _LANE)


def _states(lineage: Lineage, item: Item, chosen: Node | None) -> list[str]:
    states: list[str] = []
    if not item.nodes:
        return ["head"] if lineage.head is None else []
    if item.is_run:
        return states
    node = item.nodes[0]
    if lineage.head is node:
        states.append("head")
    if chosen is node:
        states.append("chosen")
    if node.is_pinned:
        states.append("pinned")
    if not node.has_files:
        states.append("pruned")
    if node.forks:
        states.append("forked")
    return states


def _label(lineage: Lineage, item: Item, base: str) -> str:
    """What a screen reader says, and a pointer shows."""
    folded = f"; {count(item.folded, 'older branch')} not drawn" if item.folded else ""
    if not item.nodes:
        head = ", the head" if lineage.head is None else ""
        return f"{base}{head}{folded}"
    first, last = item.nodes[0], item.nodes[-1]
    if item.is_run:
        return f"{len(item.nodes)} checkpoints, steps {first.step} to {last.step}: show them{folded}"
    said = [f"Checkpoint {first.name}", f"step {first.step}"]
    if first.mean_reward is not None:
        said.append(f"reward {figure(first.mean_reward)}")
    if lineage.head is first:
        said.append("the head")
    if first.is_pinned:
        said.append("pinned")
    if not first.has_files:
        said.append("files removed")
    if first.forks:
        said.append(f"{', '.join(first.forks)} began here")
    return ", ".join(said) + folded


def _text(item: Item) -> str:
    if not item.nodes:
        return "base"
    return f"{len(item.nodes)}×" if item.is_run else str(item.nodes[0].step)


def _link(item: Item, path: str) -> str:
    if not item.nodes:
        return f"{path}?tab=checkpoints&node=base"
    return f"{path}?tab=checkpoints&{'open' if item.is_run else 'node'}={quote(item.nodes[0].name)}"


def _edge(item: Item) -> str:
    """The line from the parent: straight, or down in a curve and then straight."""
    if item.parent is None:
        return ""
    x1, y1, x2, y2 = _x(item.parent), _y(item.parent), _x(item), _y(item)
    if y1 == y2:
        return f"M{x1} {y1}H{x2}"
    bend = x1 + _COLUMN // 2
    return f"M{x1} {y1}C{bend} {y1} {x1 + 8} {y2} {x1 + _COLUMN - 12} {y2}H{x2}"


def _x(item: Item) -> int:
    return _LEFT + item.column * _COLUMN


def _y(item: Item) -> int:
    return _TOP + item.lane * _LANE


def _shade(reward: float | None, low: float, high: float) -> int:
    if reward is None:
        return -1
    share = (reward - low) / (high - low) if high > low else 1.0
    return min(_SHADES - 1, int(share * _SHADES))
