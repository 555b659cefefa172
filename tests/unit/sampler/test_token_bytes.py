"""Tokens that are parts of a character keep their bytes, from the vocabulary to the reply."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from sampler.vocabulary import Vocabulary
from server.protocols.openai.replies import TextOffsets, chat_logprobs, completion_logprobs
from tests.unit.sampler.conftest import build_tokenizer
from wire.sampling import GenerateEvent, SampledTokens, TopLogprob


def byte_fallback_tokenizer() -> PreTrainedTokenizerFast:
    """Sentencepiece's way, as Gemma's and Llama 2's: characters that have no token of their own fall into bytes."""
    letters = ["▁", *"abcé!"]
    vocab = {piece: index for index, piece in enumerate([f"<0x{byte:02X}>" for byte in range(256)] + letters)}
    bpe = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    bpe.add_special_tokens([AddedToken("</s>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>")


TOKENIZERS = {"byte-level": build_tokenizer(), "byte fallback": byte_fallback_tokenizer()}
VOCABULARIES = {kind: Vocabulary(tokenizer) for kind, tokenizer in TOKENIZERS.items()}


def sampled(kind: str, ids: list[int]) -> SampledTokens:
    """As both backends describe them, each with itself and the next id as alternatives; once over the wire."""
    vocabulary, tokens = VOCABULARIES[kind], SampledTokens()
    for token_id in ids:
        tops = [TopLogprob(token_id=i, token=vocabulary.text_of(i), logprob=-0.5) for i in (token_id, token_id ^ 1)]
        tokens.add(token_id, vocabulary.text_of(token_id), -0.5, tops)
        tokens.raw |= vocabulary.raw_of((token_id, token_id ^ 1))
    return GenerateEvent.model_validate_json(GenerateEvent(tokens=tokens).model_dump_json()).tokens


def encoded(kind: str, text: str) -> list[int]:
    return [*TOKENIZERS[kind].encode(text, add_special_tokens=False), TOKENIZERS[kind].eos_token_id]


def split(tokens: SampledTokens, at: list[int]) -> list[SampledTokens]:
    edges = [0, *sorted(at), len(tokens)]
    return [
        SampledTokens(
            tokens.ids[a:b], tokens.texts[a:b], tokens.logprobs[a:b], tokens.top_logprobs[a:b], dict(tokens.raw)
        )
        for a, b in itertools.pairwise(edges)
    ]


TEXTS = st.text("abcé!漢😀\n ", max_size=12) | st.text(max_size=6)


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=TEXTS, cuts=st.lists(st.integers(0, 12), max_size=3))
def test_the_bytes_of_all_tokens_are_the_text_whole_and_in_pieces(kind, text, cuts):
    tokens = sampled(kind, encoded(kind, text))
    pieces = split(tokens, [min(cut, len(tokens)) for cut in cuts])
    entries: list[Any] = chat_logprobs(tokens).content
    assert [entry for piece in pieces for entry in chat_logprobs(piece).content] == entries
    assert b"".join(bytes(entry["bytes"]) for entry in entries).decode() == text
    assert all(entry["top_logprobs"][0]["bytes"] == entry["bytes"] for entry in entries)

    whole, offsets = completion_logprobs(tokens, TextOffsets()), TextOffsets()
    parts = [completion_logprobs(piece, offsets) for piece in pieces]
    assert [offset for part in parts for offset in part.text_offset] == whole.text_offset
    for offset, name in zip(whole.text_offset, whole.tokens, strict=True):
        if name and not name.startswith(("bytes:", "<|", "</s>")):
            assert text.startswith(name, offset)
    assert whole.text_offset[-1] == len(text)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_parts_of_characters_are_named_by_their_bytes_and_stay_apart(kind):
    tokens = sampled(kind, encoded(kind, "a漢!"))
    assert [entry["token"] for entry in chat_logprobs(tokens).content][:5] == ["a", "\\xe6", "\\xbc", "\\xa2", "!"]
    reply = completion_logprobs(tokens, TextOffsets())
    assert reply.tokens[:5] == ["a", "bytes:\\xe6", "bytes:\\xbc", "bytes:\\xa2", "!"]
    assert reply.text_offset[:5] == [0, 1, 1, 1, 2]
    assert reply.top_logprobs[1].keys() == {"bytes:\\xe6", "bytes:\\xe7"}
    end = chat_logprobs(tokens).content[-1]
    assert end["token"] in ("<|im_end|>", "</s>")
    assert end["bytes"] == []
