"""What is to be sampled, in no protocol's words."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from wire.sampling import MediaItem, ParseOptions, RenderRequest, SamplingParams

_AFFINE = 256
"""Prompts that begin with the same so many tokens or characters go to one sampler."""


PICTURE = "picture"
"""The type of a part of a message that names a picture which the team has here."""

Part = dict[str, Any]
Content = str | list[Part]
"""Of a message: text, or parts that are texts and pictures."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, rendered by the sampler; the answer is read as `reading` says.

    messages: as the client sent them, which is how they are recorded. single_call: of several tool calls in an answer,
    only the first is taken.
    """

    render: RenderRequest
    reading: ParseOptions
    messages: list[dict[str, Any]]
    single_call: bool = False


@dataclass(frozen=True, slots=True)
class PicturedPrompt:
    """Token ids, runs of which stand for pictures that the team has here."""

    ids: list[int]
    media: list[MediaItem]


Prompt = str | list[int] | PicturedPrompt | Chat
"""Text, token ids, such with pictures, or a chat."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """What an answer is recorded under. `num_bytes`: of the client's request. attempt: of a rollout that a runner
    carries out. of_environment: its environment asks, not its agent, so that nothing is recorded."""

    trace_id: uuid.UUID
    num_bytes: int
    attempt: int | None = None
    of_environment: bool = False


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """`num_answers` to each prompt. Sequence number = prompt number · num_answers + answer number.

    params.seed: of the first sequence; each of the others has the next one. whole: nobody reads along, so the sampler
    may send each answer in one piece. rollout None: nothing is recorded.
    """

    prompts: Sequence[Prompt]
    params: SamplingParams
    num_answers: int = 1
    whole: bool = True
    rollout: Rollout | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def num_sequences(self) -> int:
        """How many answers there will be."""
        return len(self.prompts) * self.num_answers

    def prompt_of(self, index: int) -> Prompt:
        """What the index-th sequence continues."""
        return self.prompts[index // self.num_answers]


def affinity(prompt: Prompt) -> bytes:
    """Prompts with the same one go to the same sampler, whose prefix cache knows how they begin. All turns of a
    conversation, and all conversations about one question, have in common all up to the first message of the user."""
    if isinstance(prompt, PicturedPrompt):
        names = [item.name for item in prompt.media if item.start < _AFFINE]
        return repr((prompt.ids[:_AFFINE], names)).encode()
    if not isinstance(prompt, Chat):
        return repr(prompt[:_AFFINE]).encode()
    messages = prompt.render.messages
    first = next((i for i, message in enumerate(messages) if message["role"] == "user"), 0)
    said = (_said(message["content"]) for message in messages[: first + 1])
    return "\0".join(said).encode("utf-8", "replace")


def _said(content: Content) -> str:
    """A picture goes by its name."""
    if isinstance(content, str):
        return content
    return "\0".join(part["name"] if part["type"] == PICTURE else part["text"] for part in content)
