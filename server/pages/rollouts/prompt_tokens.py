"""The prompt of a turn as the model saw it: all tokens of the rendered conversation, tools and control tokens included.

Texts come from a sampler of the base. Where none serves, ids stand for them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import UUID

from server.http.context import Context
from server.pages.rollouts.tokens import Strip, Token
from server.sampling.token_texts import token_texts
from server.values.sanitizing import storable_text
from store.rollouts import RecordedSample

MOST_TOKENS = 600
"""Of a prompt that are shown at a time."""


@dataclass(frozen=True, slots=True)
class PromptStrip:
    """Some tokens of a prompt: from `first` on, counted from 0, of `total`; `special`: their places, from 1, that are
    control tokens."""

    tokens: list[Token]
    special: frozenset[int]
    first: int
    total: int
    has_texts: bool

    @property
    def end(self) -> int:
        """How many come before what follows."""
        return self.first + len(self.tokens)


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
    prompt = PromptStrip(tokens, special, first, total, known is not None)
    if strip is None or not lacking or known is None:
        return prompt, strip
    named = [replace(token, text=text) for token, text in zip(strip.tokens, texts[len(ids) :], strict=False)]
    return prompt, replace(strip, tokens=named, has_texts=True)
