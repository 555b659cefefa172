"""One comparison, and all that go by it say the same: does this prompt go on from that turn?"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from store.rollouts.digests import boundary_digests, longest_prefix
from tests.unit.trainer.tiny import trajectory, turn
from trainer.engine.prefix_tree import build_tree
from wire.conversion import to_datums
from wire.datum_payload import decode_datums, encode_datums
from wire.extension import Media, TokenSequence, begins_with, common_prefix, lexicographic, prefix_digests
from wire.payload import decode
from wire.trajectories import Batch, Turn

CAT, DOG = bytes(range(32)), bytes(range(1, 33))
IDS = st.lists(st.integers(0, 2), max_size=8)


def sequence(ids: list[int], **media: bytes) -> TokenSequence:
    return TokenSequence(
        np.array(ids, np.int32), tuple(Media(int(at.removeprefix("at_")), item) for at, item in media.items())
    )


@st.composite
def sequences(draw: st.DrawFn) -> TokenSequence:
    ids = draw(IDS)
    starts = sorted(draw(st.sets(st.integers(0, len(ids) - 1), max_size=2))) if ids else []
    return TokenSequence(np.array(ids, np.int32), tuple(Media(at, draw(st.sampled_from([CAT, DOG]))) for at in starts))


def pairs(item: TokenSequence) -> list[tuple[int, bytes | None]]:
    """By the letter: each id with the media item that begins there."""
    starts = {each.start: each.digest for each in item.media}
    return [(int(token), starts.get(at)) for at, token in enumerate(item.ids)]


@given(sequences(), sequences())
def test_sequences_share_what_is_the_same_in_ids_and_media(one: TokenSequence, other: TokenSequence) -> None:
    same = [a == b for a, b in zip(pairs(one), pairs(other), strict=False)]
    shared = [*same, False].index(False)
    assert common_prefix(one, other) == common_prefix(other, one) == shared
    assert begins_with(one, other) == (shared == len(other))
    assert (one.key == other.key) == (pairs(one) == pairs(other))
    assert one.key.startswith(other.key) or not begins_with(one, other)


@given(sequences(), st.integers(0, 8), st.integers(0, 8))
def test_a_sequence_begins_with_its_parts(whole: TokenSequence, first: int, second: int) -> None:
    ends = sorted([min(first, len(whole)), min(second, len(whole))])
    parts = [whole.part(*edges) for edges in pairwise([0, *ends])]
    assert begins_with(whole, *parts)
    assert list(prefix_digests(parts)) == [next(prefix_digests([whole.part(0, end)])) for end in ends]


@given(st.lists(sequences(), max_size=6))
def test_in_lexicographic_order_each_shares_most_with_a_neighbour(found: list[TokenSequence]) -> None:
    ordered = [found[index] for index in lexicographic(found)]
    for at, one in enumerate(ordered[1:], 1):
        most = max(common_prefix(one, before) for before in ordered[:at])
        assert common_prefix(one, ordered[at - 1]) == most


def test_two_images_behind_equal_placeholders_are_different() -> None:
    cat, dog, text = sequence([1, 9, 9, 2], at_1=CAT), sequence([1, 9, 9, 2], at_1=DOG), sequence([1, 9, 9, 2])
    for one, other in ((cat, dog), (cat, text)):
        assert common_prefix(one, other) == 1
        assert not begins_with(one, other)
        assert next(prefix_digests([one])) != next(prefix_digests([other]))
        assert build_tree([one, other]).num_tokens == 7
    assert build_tree([cat, sequence([1, 9, 9, 3], at_1=CAT)]).num_tokens == 5


@given(IDS.filter(bool), IDS.filter(bool), st.lists(st.integers(0, 2), min_size=1, max_size=20), st.booleans())
def test_all_who_ask_whether_a_prompt_goes_on_from_a_turn_get_one_answer(
    prompt: list[int], output: list[int], other: list[int], extended: bool
) -> None:
    earlier, later = turn(prompt, output), turn(prompt + output + other if extended else other, [1])
    expected = later.prompt_ids.tolist()[: len(prompt + output)] == prompt + output
    answers = {
        "resolving rollouts": later.continues(earlier),
        "merging turns": len(to_datums(Batch([trajectory(earlier, later)]))) == 1,
        "digests": _found_by_digest(earlier, later),
        "prefix trees": _continues_in_a_tree(earlier, later),
        "payloads": _is_shared_in_a_payload(earlier, later),
    }
    assert answers == dict.fromkeys(answers, expected)


def _found_by_digest(earlier: Turn, later: Turn) -> bool:
    at_prompt, at_end = boundary_digests(earlier)
    length = len(earlier.prompt_ids) + len(earlier.output_ids)
    found = longest_prefix(later.prompt, [(len(earlier.prompt_ids), at_prompt, "prompt"), (length, at_end, "end")])
    return found == (length, "end")


def _continues_in_a_tree(earlier: Turn, later: Turn) -> bool:
    """All of the earlier turn is on the later prompt's path."""
    whole = TokenSequence(np.concatenate([earlier.prompt_ids, earlier.output_ids]))
    tree = build_tree([whole, later.prompt])
    one, other = (path.tolist() for path in tree.paths_S)
    return other[: len(one)] == one


def _is_shared_in_a_payload(earlier: Turn, later: Turn) -> bool:
    """As model inputs of two rollouts: of the later one no more is stored than what goes on from the earlier turn."""
    whole = earlier.prompt_ids.tolist() + earlier.output_ids.tolist()
    # The last token of a datum is its target, so each is followed by one.
    data = encode_datums(
        to_datums(Batch([trajectory(turn(whole, [0])), trajectory(turn(later.prompt_ids.tolist(), [0]))])), {}
    )
    assert len(decode_datums(data)[0]) == 2
    return decode(data)[1]["input_shared"].tolist() == [0, len(whole)]
