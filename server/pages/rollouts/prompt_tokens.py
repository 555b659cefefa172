"""The prompt of a turn as the model saw it: all tokens of the rendered conversation, tools and control tokens included.

Texts come from a sampler of the base. Where none serves, ids stand for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from server.http.context import Context
from server.pages.rollouts.tokens import Strip, Token
from server.sampling.token_texts import token_texts
from server.values.sanitizing import storable_text
from store.rollouts import RecordedSample
from wire.extension import Media

MOST_TOKENS = 600
"""Of a prompt that are shown at a time."""


@dataclass(frozen=True, slots=True)
class PromptStrip:
    """Some tokens of a prompt: those from `first` to `end`, counted from 0, of `total`. The tokens of a picture are
    shown as one. `special`: the places, from 1, of control tokens; `pictures`: those of pictures."""

    tokens: list[Token]
    special: frozenset[int]
    pictures: frozenset[int]
    first: int
    end: int
    total: int
    has_texts: bool


async def with_texts(
    context: Context, model_id: UUID | None, sample: RecordedSample, strip: Strip | None, first: int | None
) -> tuple[PromptStrip, Strip | None]:
    """The prompt's tokens from so many on, or its last ones; and the answer's strip with the texts that it lacks."""
    total = len(sample.turn.prompt_ids)
    first = max(0, total - MOST_TOKENS) if first is None else min(first, max(0, total - 1))
    ids: list[int] = sample.turn.prompt_ids[first : first + MOST_TOKENS].tolist()
    lacking = [token.token_id for token in strip.tokens] if strip is not None and not strip.has_texts else []
    model_id = sample.model_id or model_id
    known = None
    if model_id is not None and (ids or lacking):
        known = await token_texts(context.database, context.sampling.client, model_id, [*ids, *lacking])
    texts = [storable_text(text) for text in known.texts] if known else [""] * (len(ids) + len(lacking))
    tokens = [Token(first + at, *one, None) for at, one in enumerate(zip(ids, texts, strict=False), 1)]
    special = frozenset(first + at + 1 for at in known.special if at < len(ids)) if known else frozenset[int]()
    shown, pictures = _with_pictures(tokens, sample.turn.media)
    prompt = PromptStrip(shown, special, pictures, first, first + len(ids), total, known is not None)
    if strip is None or not lacking or known is None:
        return prompt, strip
    named = [replace(token, text=text) for token, text in zip(strip.tokens, texts[len(ids) :], strict=False)]
    return prompt, replace(strip, tokens=named, has_texts=True)


def _with_pictures(tokens: list[Token], media: Sequence[Media]) -> tuple[list[Token], frozenset[int]]:
    """The tokens, with one in the place of each picture's; and the places of these."""
    run_of = {place: item for item in media for place in range(item.start + 1, item.stop + 1)}
    shown, pictures = list[Token](), dict[Media, int]()
    for token in tokens:
        item = run_of.get(token.place)
        if item is None:
            shown.append(token)
        elif item not in pictures:
            pictures[item] = token.place
            size = f"{item.width} × {item.height} pixels"
            shown.append(replace(token, text=f" picture of {size}: {item.num_tokens} tokens "))
    return shown, frozenset(pictures.values())
