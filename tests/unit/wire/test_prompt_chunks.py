"""Prompts go from chunks to sequences and back, and a chunk that is wrong is named."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.rules import PATCHES
from wire.errors import InvalidRequest
from wire.extension import TokenSequence
from wire.pictures import Picture
from wire.prompt_chunks import ImageChunk, PointerChunk, TextChunk, num_pictures, read_chunks, to_chunks, to_sequence

FRAME, ICON = Picture("0a" * 32, 64, 48), Picture("0b" * 32, 16, 16)
N_FRAME, N_ICON = 12, 1


def pointer(picture: Picture, **fields: Any) -> dict[str, Any]:
    return {"type": "image_asset_pointer", "location": picture.location, "format": "png", **fields}


def sequence_of(chunks: list[Any], *pictures: Picture) -> TokenSequence:
    return to_sequence("the prompt", read_chunks("the prompt", chunks), pictures, PATCHES)


@given(st.lists(st.lists(st.integers(0, 99), max_size=4) | st.sampled_from([FRAME, ICON]), max_size=6))
def test_a_prompt_comes_back_from_its_chunks(parts: list[list[int] | Picture]) -> None:
    chunks = [
        pointer(part) if isinstance(part, Picture) else {"type": "encoded_text", "tokens": part} for part in parts
    ]
    sequence = sequence_of(chunks, *(part for part in parts if isinstance(part, Picture)))
    again = sequence_of(to_chunks(sequence), *(part for part in parts if isinstance(part, Picture)))
    assert again.key == sequence.key
    assert again.media == sequence.media
    assert all(chunk.get("tokens") != [] for chunk in to_chunks(sequence))


def test_a_picture_is_as_many_placeholders_as_its_base_makes_of_it() -> None:
    sequence = sequence_of([{"type": "encoded_text", "tokens": [1, 2]}, pointer(FRAME), pointer(ICON)], FRAME, ICON)
    assert sequence.ids.tolist() == [1, 2] + [PATCHES.placeholder_id] * (N_FRAME + N_ICON)
    assert [(each.start, each.num_tokens, each.name) for each in sequence.media] == [
        (2, N_FRAME, FRAME.name),
        (2 + N_FRAME, N_ICON, ICON.name),
    ]
    assert [chunk.get("expected_tokens") for chunk in to_chunks(sequence)] == [None, N_FRAME, N_ICON]


def test_bytes_come_in_base64_or_as_they_are() -> None:
    sent = {"type": "image", "format": "jpeg", "expected_tokens": 12}
    chunks = read_chunks("", [{**sent, "data": base64.b64encode(b"\xff\xd8").decode()}, {**sent, "data": b"\xff\xd8"}])
    assert chunks == [ImageChunk(b"\xff\xd8", 12)] * 2
    assert num_pictures([*chunks, TextChunk(np.zeros(1, np.int32)), PointerChunk(ICON.name)]) == 3


TEXT = {"type": "encoded_text", "tokens": [1]}
BAD = {
    "no object": ("encoded_text", "has the type None"),
    "no type": ({"tokens": [1]}, "has the type None"),
    "a type of another kind": ({"type": ["image"]}, "has the type"),
    "another type": ({"type": "dmel", "data": ""}, "has the type 'dmel'"),
    "no tokens": ({"type": "encoded_text"}, "tokens must be a list of token ids"),
    "a negative token": ({"type": "encoded_text", "tokens": [-1]}, "tokens must be a list of token ids"),
    "a token beyond int32": ({"type": "encoded_text", "tokens": [2**64]}, "tokens must be a list of token ids"),
    "a text as token": ({"type": "encoded_text", "tokens": ["1"]}, "tokens must be a list of token ids"),
    "true as token": ({"type": "encoded_text", "tokens": [True]}, "tokens must be a list of token ids"),
    "fractions as tokens": ({"type": "encoded_text", "tokens": np.array([1.5])}, "tokens must be a list of token ids"),
    "broken base64": ({"type": "image", "format": "png", "data": "a*"}, "data is no base64"),
    "base64 beyond ASCII": ({"type": "image", "format": "png", "data": "é"}, "data is no base64"),
    "no data": ({"type": "image", "format": "png"}, "data is no base64"),
    "an unknown format": ({"type": "image", "format": "svg", "data": ""}, "has the format 'svg'"),
    "no format": ({"type": "image", "data": ""}, "has the format None"),
    "a resized picture": ({"type": "image", "format": "png", "data": "", "override_dimensions": [1]}, "not supported"),
    "a URL as pointer": ({**pointer(ICON), "location": "https://example.com/a.png"}, "location must be sha256:"),
    "no location": ({**pointer(ICON), "location": None}, "location must be sha256:"),
    "an expectation of 0": (pointer(ICON, expected_tokens=0), "expected_tokens must be"),
    "an expectation in words": (pointer(ICON, expected_tokens="1"), "expected_tokens must be"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_chunk_that_is_none_is_named(name: str) -> None:
    chunk, said = BAD[name]
    with pytest.raises(InvalidRequest, match=f"^input 3: chunk 1.*{said}"):
        read_chunks("input 3", [TEXT, chunk])


def test_a_picture_with_another_number_of_tokens_than_it_was_sampled_with_is_refused() -> None:
    chunks = read_chunks("turn 2", [TEXT, pointer(FRAME, expected_tokens=N_FRAME + 1)])
    with pytest.raises(InvalidRequest, match=r"^turn 2: chunk 1 expects 13 tokens of a picture of 64×48 pixels"):
        to_sequence("turn 2", chunks, [FRAME], PATCHES)
