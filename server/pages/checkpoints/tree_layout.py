"""Where the nodes of a checkpoint tree stand in its picture: time goes right, branches go down.

A tree of any size becomes some 150 items: straight runs fold into one item, and of many branches only the newest are
drawn, with those of the head and of the chosen node; the others are counted where they begin.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from server.pages.checkpoints.lineage import Lineage, Node

MOST_BRANCHES = 24
_MOST_MARKED = 20
_LEAST_RUN = 3
_OPEN = 30
_AROUND = 2


@dataclass(slots=True)
class Item:
    """What is drawn: the base weights (no nodes), a node, or a run of several. `folded`: branches left out here."""

    nodes: list[Node]
    parent: Item | None
    column: int = 0
    lane: int = 0
    folded: int = 0
    children: list[Item] = field(default_factory=list["Item"])

    @property
    def is_run(self) -> bool:
        """Whether it stands for several nodes."""
        return len(self.nodes) > 1


def lay_out(lineage: Lineage, chosen: Node | None = None, opened: Node | None = None) -> list[Item]:
    """The items, parents before children; the first is the base weights, from which all roots come.

    `chosen` is always drawn, and so are `opened` and what follows it in its run.
    """
    tree = _Tree(lineage, chosen, opened)
    items = tree.items()
    _set_lanes(items[0])
    return items


class _Tree:
    def __init__(self, lineage: Lineage, chosen: Node | None, opened: Node | None) -> None:
        self._lineage, self._chosen, self._opened = lineage, chosen, opened
        self._children: dict[str | None, list[Node]] = defaultdict(list)
        for node in lineage.nodes:
            parent_id = node.parent_id if node.parent_id in lineage.by_id else None
            self._children[parent_id].append(node)
        self._on_path = lineage.ids_on_path
        self._drawn = self._newest_branches()
        self._shown = self._children_shown()
        self._kept = self._kept_apart()

    def items(self) -> list[Item]:
        base = Item([], None)
        base.folded = self._num_folded(None)
        items = [base]
        open_items: list[tuple[Item, Node | None]] = [(base, None)]
        while open_items:
            item, last = open_items.pop()
            for child in self._shown_children(last.id if last else None):
                run = self._run_from(child)
                groups = [run] if len(run) >= _LEAST_RUN else [[node] for node in run]
                at = item
                for group in groups:
                    at = Item(group, at, column=at.column + 1, folded=sum(self._num_folded(n.id) for n in group))
                    assert at.parent
                    at.parent.children.append(at)
                    items.append(at)
                open_items.append((at, run[-1]))
        return items

    def _newest_branches(self) -> set[str]:
        leaves = [node for node in self._lineage.nodes if not self._children.get(node.id)]
        drawn: set[str] = set()
        ends = [self._lineage.head, self._chosen, self._opened, *leaves[::-1][:MOST_BRANCHES]]
        for end in ends:
            node = end
            while node is not None and node.id not in drawn:
                drawn.add(node.id)
                node = self._lineage.by_id.get(node.parent_id) if node.parent_id else None
        return drawn

    def _children_shown(self) -> dict[str | None, list[Node]]:
        """Of each node those that are drawn: the one that leads to the head first, then the oldest."""
        shown: dict[str | None, list[Node]] = {}
        for node_id, children in self._children.items():
            if drawn := [child for child in children if child.id in self._drawn]:
                drawn.sort(key=lambda child: child.id not in self._on_path)
                shown[node_id] = drawn
        return shown

    def _kept_apart(self) -> set[str]:
        """Nodes that are not folded into a run."""
        nodes = [node for node in self._lineage.nodes if node.id in self._drawn]
        kept = {node.id for node in nodes if node.parent_id is None or len(self._shown_children(node.id)) != 1}
        marked = [node.id for node in nodes if node.is_pinned or node.forks]
        kept.update(marked[-_MOST_MARKED:])
        for node in (self._lineage.head, self._chosen):
            if node is not None:
                kept.update(near.id for near in self._around(node))
        if self._opened is not None:
            kept.update(node.id for node in self._following(self._opened, _OPEN))
        return kept

    def _around(self, node: Node) -> list[Node]:
        found: list[Node] = []
        above: Node | None = node
        while above is not None and len(found) <= _AROUND:
            found.append(above)
            above = self._lineage.by_id.get(above.parent_id) if above.parent_id else None
        return found + self._following(node, _AROUND)

    def _following(self, node: Node, most: int) -> list[Node]:
        found = [node]
        while len(found) <= most and len(children := self._shown_children(found[-1].id)) == 1:
            found.append(children[0])
        return found

    def _run_from(self, node: Node) -> list[Node]:
        """From here to before the next node that is kept apart; or that node alone."""
        run = [node]
        while run[-1].id not in self._kept:
            after = self._shown_children(run[-1].id)[0]
            if after.id in self._kept:
                break
            run.append(after)
        return run

    def _shown_children(self, node_id: str | None) -> list[Node]:
        return self._shown.get(node_id, [])

    def _num_folded(self, node_id: str | None) -> int:
        return sum(child.id not in self._drawn for child in self._children.get(node_id, ()))


def _set_lanes(base: Item) -> None:
    """Each first child goes on in its parent's lane; others take the next lane that is free as far as they reach."""
    taken: list[list[tuple[int, int]]] = []
    chains = [base]
    while chains:
        chain = _first_children(chains.pop())
        start = chain[0].parent.column if chain[0].parent else 0
        above = chain[0].parent.lane + 1 if chain[0].parent else 0
        lane = _free_lane(taken, above, start, chain[-1].column)
        for item in chain:
            item.lane = lane
        # The one that leaves last comes nearest, so that lines do not cross.
        chains.extend(child for item in chain for child in item.children[:0:-1])


def _first_children(item: Item) -> list[Item]:
    chain = [item]
    while chain[-1].children:
        chain.append(chain[-1].children[0])
    return chain


def _free_lane(taken: list[list[tuple[int, int]]], lane: int, start: int, end: int) -> int:
    while lane < len(taken) and any(a <= end and start <= b for a, b in taken[lane]):
        lane += 1
    while lane >= len(taken):
        taken.append([])
    taken[lane].append((start, end))
    return lane
