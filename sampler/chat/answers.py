"""What the process of `sampler.chat.worker` answers, as bytes: a refusal, or the tokens of a prompt."""

from __future__ import annotations

from array import array

from pydantic import TypeAdapter

from wire.sampling import MediaItem, TokenIds

REFUSED, _TOKENS = b"!", b"#"
_LENGTH_BYTES = 8
_MEDIA = TypeAdapter(list[MediaItem])


def packed_tokens(tokens: TokenIds) -> bytes:
    """The media as JSON behind their length, and the ids."""
    media = _MEDIA.dump_json(tokens.media)
    return _TOKENS + len(media).to_bytes(_LENGTH_BYTES) + media + array("q", tokens.token_ids).tobytes()


def read_tokens(answer: bytes) -> TokenIds:
    """What `packed_tokens` wrote."""
    begin = len(_TOKENS) + _LENGTH_BYTES
    end = begin + int.from_bytes(answer[len(_TOKENS) : begin])
    ids = array("q", answer[end:]).tolist()
    return TokenIds.model_construct(token_ids=ids, media=_MEDIA.validate_json(answer[begin:end]))
