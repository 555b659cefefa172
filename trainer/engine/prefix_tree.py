"""Sequences to a prefix tree: what they have in common is there once.

Lexicographic order of the sequences is preorder of their tree, so that one sort finds all sharing there is: turns of
a trajectory, the prompt of a group, a system prompt of the whole batch, a history that was edited half-way. In
preorder the descendants of a token are the tokens right behind it: key k is visible to query q where k ≤ q < end[k].

A node is a run of tokens without a branch. Its own tokens are causal among themselves, and all tokens of its subtree
see all of it: that is what attention computes from. Where a base has the tokens of a picture see one another both ways,
those of each picture are a node of their own: key k is then visible where begin[k] ≤ q < end[k].
"""

# S sequences, T tokens of the tree, M nodes

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wire.extension import Int32Array, TokenSequence, common_prefix, lexicographic

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Node:
    """Tokens start to stop lie on one path without a branch; those from stop to end are their descendants. two_way:
    whether each sees those of the node that come behind it, too."""

    start: int
    stop: int
    end: int
    two_way: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class PrefixTree:
    """ids_T in preorder; depths_T: how many tokens come before one in its own sequence, thus its position.

    paths_S: int64, where the tokens of each sequence lie, in the order in which the sequences were given.
    """

    ids_T: Int32Array
    depths_T: Int64Array
    nodes_M: tuple[Node, ...]
    paths_S: tuple[Int64Array, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens after sharing."""
        return len(self.ids_T)

    @property
    def ends_T(self) -> Int64Array:
        """One past the last token that sees a token."""
        ends_T = np.empty(self.num_tokens, np.int64)
        for node in self.nodes_M:
            ends_T[node.start : node.stop] = node.end
        return ends_T

    @property
    def begins_T(self) -> Int64Array:
        """The first token that sees a token: itself, or the first of its node where that is two-way."""
        begins_T = np.arange(self.num_tokens)
        for node in self.nodes_M:
            if node.two_way:
                begins_T[node.start : node.stop] = node.start
        return begins_T


def build_tree(sequences_S: Sequence[TokenSequence], min_shared: int = 1, *, two_way: bool = False) -> PrefixTree:
    """The tree of non-empty sequences.

    min_shared: a branch that would share fewer tokens than this beyond the branch before it is not worth a node of
    its own, so those tokens are there more than once. two_way: whether tokens of a picture see one another both ways.
    Takes O(n log n) comparisons of sequences, then linear time.
    """
    order = lexicographic(sequences_S)
    fresh: list[Int32Array] = []  # what each sequence adds, in preorder
    depths: list[Int64Array] = []
    first_tokens: list[int] = []  # where a new node begins
    paths: dict[int, Int64Array] = {}
    branches: list[int] = []  # depths at which the last sequence's path was branched off, ascending
    last, num_tokens = order[0], 0
    for index in order:
        ids, last_path = sequences_S[index].ids, paths.get(last, np.empty(0, np.int64))
        shared = common_prefix(sequences_S[last], sequences_S[index]) if paths else 0
        while branches and branches[-1] > shared:
            branches.pop()
        base = branches[-1] if branches else 0
        if not paths or shared < len(last_path):  # else the last sequence goes on, or comes again
            if shared - base < min_shared:
                shared = base
            first_tokens += [num_tokens, *last_path[shared : shared + 1].tolist()]
            if shared > base:
                branches.append(shared)
        added = ids[shared:]
        paths[index] = np.concatenate([last_path[:shared], np.arange(num_tokens, num_tokens + len(added))])
        fresh.append(added)
        depths.append(np.arange(shared, len(ids)))
        num_tokens += len(added)
        last = index
    depths_T = np.concatenate(depths)
    paths_S = tuple(paths[index] for index in range(len(sequences_S)))
    nodes_M = _nodes(sorted(set(first_tokens)), depths_T)
    return PrefixTree(
        ids_T=np.concatenate(fresh),
        depths_T=depths_T,
        nodes_M=tuple(_cut_at_runs(nodes_M, _runs(sequences_S, paths_S)) if two_way else nodes_M),
        paths_S=paths_S,
    )


def _nodes(starts: list[int], depths_T: Int64Array) -> Iterator[Node]:
    stops = [*starts[1:], len(depths_T)]
    ends = list(stops)
    above: list[int] = []  # nodes whose subtree is not known to have ended
    for m, start in enumerate(starts):
        while above and depths_T[starts[above[-1]]] >= depths_T[start]:
            ends[above.pop()] = start
        above.append(m)
    for m in above:
        ends[m] = len(depths_T)
    return (Node(*node) for node in zip(starts, stops, ends, strict=True))


def _runs(sequences_S: Sequence[TokenSequence], paths_S: Sequence[Int64Array]) -> list[tuple[int, int]]:
    """Where the media of all sequences begin and end in the tree, ascending, those that are shared once."""
    paths = zip(sequences_S, paths_S, strict=True)
    starts = {int(path[item.start]): item.num_tokens for sequence, path in paths for item in sequence.media}
    return [(start, start + length) for start, length in sorted(starts.items())]


def _cut_at_runs(nodes: Iterable[Node], runs: Sequence[tuple[int, int]]) -> Iterator[Node]:
    """Each run as a node of its own, one below the other. No run reaches from one node into the next."""
    waiting = deque(runs)
    for node in nodes:
        start = node.start
        while waiting and waiting[0][0] < node.stop:
            first, stop = waiting.popleft()
            assert start <= first < stop <= node.stop, "a branch inside of a run"
            if start < first:
                yield Node(start, first, node.end)
            yield Node(first, stop, node.end, two_way=True)
            start = stop
        if start < node.stop:
            yield Node(start, node.stop, node.end)
