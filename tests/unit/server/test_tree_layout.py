"""Where checkpoints stand in the picture of their tree."""

from __future__ import annotations

import random
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.pages.checkpoints.lineage import Lineage, Node
from server.pages.checkpoints.tree_layout import Item, lay_out

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def tree(parents: list[int | None], head: int | None = -1, pinned: tuple[int, ...] = ()) -> Lineage:
    """Nodes in commit order; each names its parent by place."""
    nodes: list[Node] = []
    for index, parent in enumerate(parents):
        above = nodes[parent] if parent is not None else None
        node_id, step = str(uuid.UUID(int=index + 1)), (above.step + 1 if above else 1)
        at = NOW + timedelta(seconds=index)
        nodes.append(
            Node(node_id, above and above.id, step, f"{step:04d}-{index}", 0.5, at, index in pinned, True, True)
        )
    return Lineage(nodes, nodes[head].id if head is not None and nodes else None)


def straight(length: int) -> list[int | None]:
    return [None, *range(length - 1)]


def shown(items: list[Item]) -> list[list[str]]:
    return [[node.name for node in item.nodes] for item in items]


def test_a_tree_without_checkpoints_is_the_base_weights():
    assert shown(lay_out(tree([]))) == [[]]


def test_a_straight_run_folds_between_its_ends():
    items = lay_out(tree(straight(1000)))
    assert [len(item.nodes) for item in items] == [0, 1, 996, 1, 1, 1]
    assert {item.lane for item in items} == {0}
    assert [item.column for item in items] == [0, 1, 2, 3, 4, 5]


def test_a_chosen_node_stands_alone_with_its_neighbours():
    lineage = tree(straight(100))
    items = lay_out(lineage, chosen=lineage.nodes[50])
    assert ["0051-50"] in shown(items)
    assert ["0050-49"] in shown(items)
    assert ["0052-51"] in shown(items)


def test_an_opened_run_shows_its_first_nodes():
    lineage = tree(straight(100))
    items = lay_out(lineage, opened=lineage.nodes[1])
    singles = [item.nodes[0].step for item in items if len(item.nodes) == 1]
    assert set(range(2, 30)) <= set(singles)
    assert any(item.is_run for item in items)


def test_what_leads_to_the_head_goes_straight_and_a_branch_goes_below():
    lineage = tree([None, 0, 1, 2, 1, 4])  # 1 2 3 4, and from 2 again 3 4, where the head is
    items = {name: item for item in lay_out(lineage) for name in [n.name for n in item.nodes]}
    assert [items[name].lane for name in ("0001-0", "0002-1", "0003-4", "0004-5")] == [0, 0, 0, 0]
    assert items["0003-2"].lane == items["0004-3"].lane == 1


def test_pins_are_not_folded():
    assert ["0041-40"] in shown(lay_out(tree(straight(100), pinned=(40,))))


def test_of_many_branches_the_oldest_are_counted_where_they_begin():
    parents = straight(300) + list(range(200))
    items = lay_out(tree(parents, head=299))
    assert len(items) < 160
    drawn_leaves = sum(not item.children for item in items)
    assert sum(item.folded for item in items) + drawn_leaves == 201


@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_random_checkpoints_stay_few_items(seed: int):
    rng = random.Random(seed)
    parents = [None, *(max(0, index - rng.choice([0] * 9 + [rng.randrange(40)])) for index in range(999))]
    assert len(lay_out(tree(parents))) < 200


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_two_items_share_a_place_and_parents_stand_left(data: st.DataObject):
    size = data.draw(st.integers(1, 60))
    parents = [None, *(data.draw(st.one_of(st.none(), st.integers(0, i))) for i in range(size - 1))]
    lineage = tree(parents, head=data.draw(st.one_of(st.none(), st.integers(0, size - 1))))
    chosen = lineage.nodes[data.draw(st.integers(0, size - 1))]
    items = lay_out(lineage, chosen)
    places = [(item.column, item.lane) for item in items]
    assert len(set(places)) == len(places)
    for item in items[1:]:
        assert item.parent in items
        assert item.parent.column < item.column
        assert item.lane >= item.parent.lane
    names = [node.name for item in items for node in item.nodes]
    assert len(set(names)) == len(names)
    assert [chosen.name] in shown(items)
    if lineage.head:
        assert [lineage.head.name] in shown(items)
    if sum(item.folded for item in items) == 0:
        assert len(names) == size
