"""Text settles: no half characters, nothing of a stop string."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sampler.incremental_detokenizer import IncrementalDetokenizer
from sampler.vocabulary import Vocabulary
from tests.unit.sampler.conftest import build_tokenizer

TOKENIZER = build_tokenizer()
VOCABULARY = Vocabulary(TOKENIZER)


def settle(text: str, stops: list[str]) -> tuple[list[str], bool]:
    stream = IncrementalDetokenizer(VOCABULARY, stops)
    pieces: list[str] = []
    for token_id in TOKENIZER.encode(text):
        pieces.append(stream.feed(token_id))
        if stream.stopped:
            return pieces, True
    return [*pieces, stream.flush()], False


def test_every_byte_has_its_token_and_every_token_its_bytes():
    text = "aäß€🎉\n\x00"
    ids = TOKENIZER.encode(text)
    assert b"".join(VOCABULARY.bytes_of(token_id) for token_id in ids) == text.encode()
    assert {VOCABULARY.bytes_of(n) for n in range(256)} == {bytes([n]) for n in range(256)}


def test_control_tokens_have_a_name_but_no_text_and_markers_have_both():
    end, think = TOKENIZER.convert_tokens_to_ids(["<|im_end|>", "<think>"])
    assert (VOCABULARY.bytes_of(end), VOCABULARY.text_of(end)) == (b"", "<|im_end|>")
    assert (VOCABULARY.bytes_of(think), VOCABULARY.text_of(think)) == (b"<think>", "<think>")
    assert (VOCABULARY.bytes_of(10_000), VOCABULARY.text_of(10_000)) == (b"", "")


def test_a_character_appears_with_its_last_byte():
    pieces, _ = settle("é🎉", [])
    assert pieces == ["", "é", "", "", "", "🎉", ""]
    assert [VOCABULARY.text_of(token_id) for token_id in TOKENIZER.encode("é")] == ["", ""]


def test_half_a_character_at_the_end_stays_out_and_a_broken_one_is_replaced():
    first, second, *_ = TOKENIZER.encode("🎉")
    stream = IncrementalDetokenizer(VOCABULARY, [])
    assert stream.feed(first) + stream.feed(second) + stream.flush() == ""
    (letter,) = TOKENIZER.encode("x")
    stream = IncrementalDetokenizer(VOCABULARY, [])
    assert stream.feed(first) + stream.feed(letter) == "\ufffdx"


def test_what_may_become_a_stop_string_is_held_back():
    pieces, stopped = settle("a EN b END c", ["END"])
    assert pieces == ["a", " ", "", "", "EN ", "b", " ", "", "", ""]
    assert stopped


def test_the_earliest_stop_string_wins_and_the_text_ends_before_it():
    pieces, stopped = settle("one two three", ["three", "wo t", "zzz"])
    assert ("".join(pieces), stopped) == ("one t", True)


@given(st.text("ab🎉", max_size=30), st.lists(st.text("ab🎉", min_size=1, max_size=4), max_size=3))
def test_settled_text_is_the_text_up_to_the_first_stop_string(text: str, stops: list[str]):
    pieces, stopped = settle(text, stops)
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    if not ends:
        assert ("".join(pieces), stopped) == (text, False)
        return
    complete = text[: min(ends)]
    assert "".join(pieces) == complete[: min(complete.find(stop) for stop in stops if stop in complete)]
    assert stopped


def test_a_stop_string_before_min_tokens_is_plain_text():
    stream = IncrementalDetokenizer(VOCABULARY, ["ab"])
    ids = TOKENIZER.encode("abab")
    settled = [stream.feed(token_id, may_stop=number >= 2) for number, token_id in enumerate(ids)]
    assert (settled, stream.stopped) == (["", "ab", "", ""], True)
