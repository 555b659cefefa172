from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.engine.prefix_tree import Node, PrefixTree, build_tree
from wire.extension import Media, TokenSequence, joined

FEW_TOKENS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=8)


def tree_of(*sequences: list[int], min_shared: int = 1) -> PrefixTree:
    return build_tree([TokenSequence(np.array(ids, np.int32)) for ids in sequences], min_shared)


def test_a_shared_prompt_is_there_once() -> None:
    tree = tree_of([7, 8, 9, 1], [7, 8, 9, 2, 3], [7, 8, 9])
    assert tree.ids_T.tolist() == [7, 8, 9, 1, 2, 3]
    assert tree.depths_T.tolist() == [0, 1, 2, 3, 3, 4]
    assert tree.nodes_M == (Node(0, 3, 6), Node(3, 4, 4), Node(4, 6, 6))
    assert [path.tolist() for path in tree.paths_S] == [[0, 1, 2, 3], [0, 1, 2, 4, 5], [0, 1, 2]]


def test_a_picture_is_a_node_of_its_own_where_its_tokens_see_one_another() -> None:
    run = TokenSequence(np.full(3, 9, np.int32), (Media(0, 3, bytes(32), 8, 8),))
    begin, *ends = (TokenSequence(np.array(ids, np.int32)) for ids in ([5, 6], [1], [2, 3]))
    sequences = [joined(begin, run, end) for end in ends]
    one_way, two_way = (build_tree(sequences, two_way=two_way) for two_way in (False, True))
    assert one_way.nodes_M == (Node(0, 5, 8), Node(5, 6, 6), Node(6, 8, 8))
    assert two_way.nodes_M == (Node(0, 2, 8), Node(2, 5, 8, two_way=True), Node(5, 6, 6), Node(6, 8, 8))
    assert two_way.begins_T.tolist() == [0, 1, 2, 2, 2, 5, 6, 7]
    assert two_way.ends_T.tolist() == one_way.ends_T.tolist()


def test_a_sequence_that_goes_on_where_another_ended_needs_no_node() -> None:
    assert tree_of([1, 2], [1, 2, 3]).nodes_M == (Node(0, 3, 3),)


def test_branches_that_share_too_little_are_kept_apart() -> None:
    tree = tree_of([1, 1, 1, 5, 5, 7], [1, 1, 1, 5, 6], [2, 2, 3], [2, 2, 4], min_shared=3)
    assert tree.ids_T.tolist() == [1, 1, 1, 5, 5, 7, 6, 2, 2, 3, 2, 2, 4]
    assert [node.start for node in tree.nodes_M] == [0, 4, 6, 7, 10]
    assert tree_of([1, 2], [1, 2, 3], [1, 2], min_shared=99).num_tokens == 3, "nothing branches off here"


@given(FEW_TOKENS, st.integers(1, 4))
def test_each_token_sees_its_own_sequence_up_to_itself(sequences: list[list[int]], min_shared: int) -> None:
    tree = tree_of(*sequences, min_shared=min_shared)
    tokens_T, ends_T = np.arange(tree.num_tokens), tree.ends_T
    for ids, path in zip(sequences, tree.paths_S, strict=True):
        assert tree.ids_T[path].tolist() == ids
        assert tree.depths_T[path].tolist() == list(range(len(ids)))
        for place, query in enumerate(path):
            visible = np.flatnonzero((tokens_T <= query) & (query < ends_T))
            assert visible.tolist() == path[: place + 1].tolist()


@given(FEW_TOKENS)
def test_no_token_is_there_twice(sequences: list[list[int]]) -> None:
    different = {tuple(ids[: n + 1]) for ids in sequences for n in range(len(ids))}
    assert tree_of(*sequences).num_tokens == len(different)


@given(FEW_TOKENS, st.randoms())
def test_the_order_of_the_sequences_does_not_change_the_tree(sequences: list[list[int]], random) -> None:
    shuffled = random.sample(sequences, len(sequences))
    one, other = tree_of(*sequences), tree_of(*shuffled)
    assert one.ids_T.tolist() == other.ids_T.tolist()
    assert one.nodes_M == other.nodes_M


@pytest.mark.parametrize("ids", [[2**31 - 1, 0], [0, 2**31 - 1]])
def test_large_ids_sort_as_numbers(ids: list[int]) -> None:
    assert tree_of([300], ids, [2]).ids_T.tolist() == [n for each in sorted([[300], ids, [2]]) for n in each]
