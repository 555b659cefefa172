"""Prompts that came as chunks (`wire.prompt_chunks`), as token sequences whose pictures are stored."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from server.pictures.collaborators import Pictures
from server.pictures.taking import SentPicture, no_such_picture, take_each
from wire.errors import InvalidRequest, TooLarge
from wire.extension import TokenSequence
from wire.picture_rule import PictureRule
from wire.pictures import Picture
from wire.process.off_loop import off_loop
from wire.prompt_chunks import Chunk, ImageChunk, PointerChunk, TextChunk, num_pictures, to_sequence


@dataclass(frozen=True, slots=True)
class ChunkedPrompt:
    """where: its place in the request, with which refusals begin."""

    where: str
    chunks: Sequence[Chunk]

    def place_of(self, number: int) -> str:
        """A chunk's place in the request."""
        return f"{self.where}: chunk {number}"


def rule_of(base: Mapping[str, Any] | None) -> PictureRule | None:
    """How a base reads pictures, given what its trainer says of that (`BaseModelInfo.pictures`)."""
    return None if base is None else PictureRule.from_json(base)


async def with_names(
    pictures: Pictures, team_id: UUID, rule: PictureRule | None, prompts: Sequence[ChunkedPrompt]
) -> list[ChunkedPrompt]:
    """The prompts with each picture as a pointer: those that came inline are decoded and stored, equal ones once.

    rule: of the base; None where it takes text alone. Raises InvalidRequest for pictures there, and what `take_each`
    raises.
    """
    for prompt in prompts:
        _check_pictures(pictures, rule, prompt)
    sizes = [len(chunk.data) for prompt in prompts for chunk in prompt.chunks if isinstance(chunk, ImageChunk)]
    if not sizes:
        return list(prompts)
    num_bytes = sum(sizes)
    sent = await off_loop(num_bytes, _sent_inline, prompts)
    limits = replace(pictures.settings.limits, per_request=len(sent))  # each prompt was counted
    taken = await take_each(pictures, team_id, [*sent.values()], limits)
    names = {digest: picture.name for digest, picture in zip(sent, taken, strict=True)}
    return await off_loop(num_bytes, _with_pointers, prompts, names)


async def sequences(
    pictures: Pictures, team_id: UUID, rule: PictureRule | None, prompts: Sequence[ChunkedPrompt]
) -> list[TokenSequence]:
    """What prompts stand for whose pictures all have names.

    rule: as above. Raises InvalidRequest for pictures where the base takes text alone and for other numbers of tokens
    than a chunk expects, and PictureNotFound; each names the prompt and the chunk.
    """
    for prompt in prompts:
        _check_pictures(pictures, rule, prompt)
    names = {chunk.name for prompt in prompts for chunk in prompt.chunks if isinstance(chunk, PointerChunk)}
    known = await pictures.rows.known(team_id, sorted(names)) if names else {}
    return [to_sequence(prompt.where, prompt.chunks, _named_in(prompt, known), rule) for prompt in prompts]


def _named_in(prompt: ChunkedPrompt, known: Mapping[str, Picture]) -> list[Picture]:
    named = [(number, one.name) for number, one in enumerate(prompt.chunks) if isinstance(one, PointerChunk)]
    for number, name in named:
        if name not in known:
            raise no_such_picture(prompt.place_of(number), name)
    return [known[name] for _, name in named]


def _check_pictures(pictures: Pictures, rule: PictureRule | None, prompt: ChunkedPrompt) -> None:
    count, most = num_pictures(prompt.chunks), pictures.settings.limits.per_request
    if count and rule is None:
        number = next(i for i, chunk in enumerate(prompt.chunks) if not isinstance(chunk, TextChunk))
        raise InvalidRequest(f"{prompt.place_of(number)} is a picture, and the base of this model takes text alone")
    if count > most:
        raise TooLarge(f"{prompt.where} has {count} pictures; at most {most} are taken in a prompt")


def _sent_inline(prompts: Sequence[ChunkedPrompt]) -> dict[bytes, SentPicture]:
    """By the digest of the bytes, where it stands first."""
    sent = dict[bytes, SentPicture]()
    for prompt in prompts:
        for number, chunk in enumerate(prompt.chunks):
            if isinstance(chunk, ImageChunk):
                sent.setdefault(_digest(chunk), SentPicture(prompt.place_of(number), chunk.data))
    return sent


def _with_pointers(prompts: Sequence[ChunkedPrompt], names: Mapping[bytes, str]) -> list[ChunkedPrompt]:
    return [replace(prompt, chunks=[_pointer(chunk, names) for chunk in prompt.chunks]) for prompt in prompts]


def _pointer(chunk: Chunk, names: Mapping[bytes, str]) -> Chunk:
    return PointerChunk(names[_digest(chunk)], chunk.expected_tokens) if isinstance(chunk, ImageChunk) else chunk


def _digest(chunk: ImageChunk) -> bytes:
    return hashlib.sha256(chunk.data).digest()
