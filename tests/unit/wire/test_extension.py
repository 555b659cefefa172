"""One comparison, and all that go by it say the same: does this prompt go on from that turn?"""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.rollouts.digests import boundary_digests, longest_prefix, sample_digest
from store.rollouts.samples import NewSample, pack_samples
from tests.unit.trainer.tiny import trajectory
from trainer.engine.prefix_tree import build_tree
from wire.conversion import to_datums
from wire.datum_payload import decode_datums, encode_datums
from wire.extension import Media, TokenSequence, begins_with, common_prefix, joined, lexicographic, prefix_digests
from wire.payload import decode
from wire.trajectories import Batch, Turn

CAT, DOG = bytes(range(32)), bytes(range(1, 33))
PLACEHOLDER = 2
IDS = st.lists(st.integers(0, PLACEHOLDER), max_size=8)


def run(num_tokens: int, digest: bytes) -> TokenSequence:
    """A picture alone."""
    ids = np.full(num_tokens, PLACEHOLDER, np.int32)
    return TokenSequence(ids, (Media(0, num_tokens, digest, 8 * num_tokens, 8),))


def text(ids: list[int]) -> TokenSequence:
    return TokenSequence(np.array(ids, np.int32))


PARTS = st.lists(IDS.map(text) | st.builds(run, st.integers(1, 3), st.sampled_from([CAT, DOG])), min_size=1, max_size=4)
SEQUENCES = PARTS.map(lambda parts: joined(*parts))
"""Text that holds the placeholder's id too, and pictures, side by side and at both ends."""


def pairs(item: TokenSequence) -> list[tuple[int, tuple[int, bytes] | None]]:
    """By the letter: each id, and of the first of a run how long it is, and of what picture."""
    starts = {each.start: (each.num_tokens, each.digest) for each in item.media}
    return [(int(token), starts.get(at)) for at, token in enumerate(item.ids)]


@given(SEQUENCES, SEQUENCES)
def test_sequences_share_what_is_the_same_in_ids_and_media(one: TokenSequence, other: TokenSequence) -> None:
    same = [a == b for a, b in zip(pairs(one), pairs(other), strict=False)]
    shared = [*same, False].index(False)
    assert common_prefix(one, other) == common_prefix(other, one) == shared
    assert begins_with(one, other) == (shared == len(other))
    assert (one.key == other.key) == (pairs(one) == pairs(other))
    assert one.key.startswith(other.key) or not begins_with(one, other)
    assert not one.cuts_a_run(shared)
    assert not other.cuts_a_run(shared)


@given(SEQUENCES, st.integers(0, 20), st.integers(0, 20))
def test_a_sequence_begins_with_its_parts(whole: TokenSequence, first: int, second: int) -> None:
    ends = [end for end in sorted([first, second]) if end <= len(whole) and not whole.cuts_a_run(end)]
    parts = [whole.part(*edges) for edges in pairwise([0, *ends])]
    assert begins_with(whole, *parts)
    assert list(prefix_digests(parts)) == [next(prefix_digests([whole.part(0, end)])) for end in ends]


@given(PARTS)
def test_parts_joined_are_the_parts(parts: list[TokenSequence]) -> None:
    assert pairs(joined(*parts)) == [pair for part in parts for pair in pairs(part)]
    assert [each.stop - each.start for each in joined(*parts).media] == [
        each.num_tokens for part in parts for each in part.media
    ]


@pytest.mark.parametrize(
    "media",
    [
        (Media(2, 3, CAT, 1, 1),),
        (Media(0, 2, CAT, 1, 1), Media(1, 2, CAT, 1, 1)),
        (Media(2, 1, CAT, 1, 1), Media(0, 1, CAT, 1, 1)),
        (Media(1, 0, CAT, 1, 1),),
    ],
    ids=["cut off by the end", "overlapping", "out of order", "empty"],
)
def test_runs_are_whole_and_in_order(media: tuple[Media, ...]) -> None:
    with pytest.raises(AssertionError):
        TokenSequence(np.zeros(4, np.int32), media)


@pytest.mark.parametrize("edges", [(0, 2), (2, 4)])
def test_a_part_never_cuts_a_run(edges: tuple[int, int]) -> None:
    whole = joined(text([0]), run(3, CAT))
    assert whole.part(1, 4).media == run(3, CAT).media
    with pytest.raises(AssertionError, match="cuts a run"):
        whole.part(*edges)


@given(st.lists(SEQUENCES, max_size=6))
def test_in_lexicographic_order_each_shares_most_with_a_neighbour(found: list[TokenSequence]) -> None:
    ordered = [found[index] for index in lexicographic(found)]
    for at, one in enumerate(ordered[1:], 1):
        most = max(common_prefix(one, before) for before in ordered[:at])
        assert common_prefix(one, ordered[at - 1]) == most


def test_two_images_behind_equal_placeholders_are_different() -> None:
    cat, dog, longer = (joined(text([1]), each, text([0])) for each in (run(2, CAT), run(2, DOG), run(3, CAT)))
    for one, other in ((cat, dog), (cat, text([1, PLACEHOLDER, PLACEHOLDER, 0]))):
        assert common_prefix(one, other) == 1
        assert not begins_with(one, other)
        assert next(prefix_digests([one])) != next(prefix_digests([other]))
        assert build_tree([one, other]).num_tokens == 7
    assert common_prefix(cat, longer) == 1
    assert build_tree([cat, joined(text([1]), run(2, CAT), text([1]))]).num_tokens == 5


NOT_EMPTY = SEQUENCES.filter(len)


@given(NOT_EMPTY, IDS.filter(bool).map(text), NOT_EMPTY, st.booleans())
def test_all_who_ask_whether_a_prompt_goes_on_from_a_turn_get_one_answer(
    prompt: TokenSequence, output: TokenSequence, other: TokenSequence, extended: bool
) -> None:
    whole = joined(prompt, output)
    later = joined(whole, other) if extended else other
    check_all_who_ask(turn_of(prompt, output), turn_of(later, text([1])), pairs(later)[: len(whole)] == pairs(whole))


@given(PARTS, PARTS, IDS.filter(bool).map(text), st.integers(1, 3))
def test_nobody_takes_two_pictures_behind_equal_ids_for_one(
    before: list[TokenSequence], between: list[TokenSequence], output: TokenSequence, num_tokens: int
) -> None:
    """Nor a picture for the text that its placeholders are, when a policy samples them."""
    placeholders = text([PLACEHOLDER] * num_tokens)
    cat, dog = run(num_tokens, CAT), run(num_tokens, DOG)
    for one, other in ((cat, dog), (cat, placeholders), (placeholders, cat)):
        prompt = joined(*before, one, *between)
        swapped = joined(*before, other, *between, output, text([0]))
        assert swapped.ids.tolist()[: len(prompt)] == prompt.ids.tolist()
        check_all_who_ask(turn_of(prompt, output), turn_of(swapped, text([1])), expected=False)
        same = joined(prompt, output, text([0]))
        check_all_who_ask(turn_of(prompt, output), turn_of(same, text([1])), expected=True)
        digests = {sample_digest(turn_of(each, output)) for each in (prompt, joined(*before, other, *between))}
        assert len(digests) == 2


def check_all_who_ask(earlier: Turn, later: Turn, expected: bool) -> None:
    answers = {
        "resolving rollouts": later.continues(earlier),
        "merging turns": len(to_datums(Batch([trajectory(earlier, later)]))) == 1,
        "digests": _found_by_digest(earlier, later),
        "stored samples": _is_a_parent(earlier, later),
        "prefix trees": _continues_in_a_tree(earlier, later),
        "payloads": _is_shared_in_a_payload(earlier, later),
    }
    assert answers == dict.fromkeys(answers, expected)


def turn_of(prompt: TokenSequence, output: TokenSequence) -> Turn:
    return Turn(prompt.ids, output.ids, np.zeros(len(output), np.float32), prompt.media)


def _found_by_digest(earlier: Turn, later: Turn) -> bool:
    at_prompt, at_end = boundary_digests(earlier)
    length = len(earlier.prompt_ids) + len(earlier.output_ids)
    found = longest_prefix(later.prompt, [(len(earlier.prompt_ids), at_prompt, "prompt"), (length, at_end, "end")])
    return found == (length, "end")


def _is_a_parent(earlier: Turn, later: Turn) -> bool:
    """The later sample's row leaves all of the earlier one out."""
    team_id, trace_id = uuid4(), uuid4()
    samples = [NewSample(team_id, trace_id, each) for each in (earlier, later)]
    if samples[0].digest == samples[1].digest:
        return False
    values = pack_samples(samples, [], _NO_BLOBS)[1].values
    whole = len(earlier.prompt_ids) + len(earlier.output_ids)
    return (values["parent_digest"], values["prompt_shared"]) == (samples[0].digest, whole)


_NO_BLOBS: Any = None
"""Samples of a few ids are rows."""


def _continues_in_a_tree(earlier: Turn, later: Turn) -> bool:
    """All of the earlier turn is on the later prompt's path."""
    tree = build_tree([joined(earlier.prompt, earlier.output), later.prompt])
    one, other = (path.tolist() for path in tree.paths_S)
    return other[: len(one)] == one


def _is_shared_in_a_payload(earlier: Turn, later: Turn) -> bool:
    """As model inputs of two rollouts: of the later one no more is stored than what goes on from the earlier turn."""
    whole = joined(earlier.prompt, earlier.output)
    # The last token of a datum is its target, so each is followed by one.
    turns = [turn_of(each, text([0])) for each in (whole, later.prompt)]
    data = encode_datums(to_datums(Batch([trajectory(each) for each in turns])), {})
    found, _ = decode_datums(data)
    assert [each.model_input.key for each in found] == [whole.key, later.prompt.key]
    return decode(data)[1]["input_shared"].tolist() == [0, len(whole)]
