"""The port between the sampler's front (agent, HTTP app) and whatever generates."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sampler.admission.prompt_limits import PromptLimits
from wire.loaded import Loaded
from wire.picture_rule import PictureRule
from wire.sampling import (
    DerenderRequest,
    GenerateEvent,
    GenerateRequest,
    MessageDelta,
    ParsedMessage,
    ParseOptions,
    PromptScores,
    RenderRequest,
    ScoreRequest,
    TokenIds,
    TokenizeRequest,
    TokenTexts,
)

NO_PICTURES: Mapping[str, bytes] = {}
"""Canonical PNGs by name, for prompts that show none."""


@dataclass(frozen=True, slots=True)
class SamplerInfo:
    """Facts of the base model that callers need. `eos_ids` end an answer unless the request ignores them. `constrains`:
    whether the backend can sample under a Constraint. `pictures`: how prompts have them, None where they have none."""

    vocab_size: int
    context_length: int
    eos_ids: tuple[int, ...]
    constrains: bool = False
    pictures: PictureRule | None = None


class AnswerReader(Protocol):
    """Reads one answer of a chat while it comes."""

    async def take(self, event: GenerateEvent) -> list[MessageDelta]:
        """What these tokens let be said; all that is left with the last event. Never fails on what a policy wrote."""
        ...


class SamplerBackend(Protocol):
    """Generates from one base model under many adapters at once.

    Adapters are immutable and named once: a name never gets other weights. Their three methods may be called from
    any thread, and block; the others belong to an event loop, and never block it. Every refusal is a HeadwayError.
    """

    @property
    def info(self) -> SamplerInfo: ...

    @property
    def prompt_limits(self) -> PromptLimits: ...

    @property
    def details(self) -> Loaded:
        """What it has loaded, for people who look."""
        ...

    def load_adapter(self, name: str, path: Path | None) -> None:
        """Make `name` usable; when this returns, it is. `path` is a folder in PEFT layout; None is a zero adapter,
        which is the base weights, exactly. Running requests are not disturbed.

        Raises Conflict if the name is loaded, NotFound if there is no such folder, CorruptCheckpoint if its files do
        not fit the base, InvalidRequest for a kind of adapter that is not supported.
        """
        ...

    def unload_adapter(self, name: str) -> None:
        """Refuse `name` to new requests from now on; those that run go on under it to their end. When this returns,
        nothing reads the adapter's files any more. Unknown names are fine."""
        ...

    def loaded(self) -> set[str]:
        """The names that a new request may use."""
        ...

    def trouble(self) -> str | None:
        """Why nothing can be generated now: what generates has ended, or hangs. None: it can. From any thread;
        does not block."""
        ...

    def final_trouble(self) -> str | None:
        """Why nothing will be generated any more, so that the process may end. From any thread; does not block."""
        ...

    async def render(self, request: RenderRequest) -> TokenIds:
        """Messages to token ids through the chat template, and the pictures in them, of which sizes are enough. Raises
        InvalidRequest, and ContextLengthExceeded as soon as it is known. Cancelling it ends the work."""
        ...

    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        """Text to token ids, with the special tokens that the tokenizer itself puts around a text. Raises
        ContextLengthExceeded."""
        ...

    def token_texts(self, token_ids: Sequence[int]) -> TokenTexts:
        """What each token says alone, as people read it. Never fails."""
        ...

    def generate(
        self, request: GenerateRequest, pictures: Mapping[str, bytes] = NO_PICTURES
    ) -> AsyncGenerator[GenerateEvent, None]:
        """Sample one sequence; `pictures` has the canonical PNGs of all that its prompt names. The last event has the
        finish reason; cancelling or closing the iterator cancels the generation. (`chat` and `reading` are for
        `render`, and a reader or `derender`, whom somebody else asks.)

        Raises, before the first event, NotFound for an adapter that is not loaded and InvalidRequest for what
        `sampler.admission.limits` refuses and for a constraint that cannot be kept.
        """
        ...

    async def score(self, request: ScoreRequest, pictures: Mapping[str, bytes] = NO_PICTURES) -> PromptScores:
        """Logprobs of the prompt's own tokens, exact: those that a forward pass of the trainer gives. `pictures`: as
        of `generate`. Cancelling it ends the work.

        Raises NotFound for an adapter that is not loaded, and InvalidRequest for what `sampler.admission.limits`
        refuses and for what this backend would compute wrongly.
        """
        ...

    async def derender(self, request: DerenderRequest) -> ParsedMessage:
        """Read an answer: reasoning, content, tool calls. Never fails on what a policy wrote."""
        ...

    def reader(self, request: GenerateRequest, reading: ParseOptions) -> AnswerReader:
        """A reader of the answer to this request."""
        ...

    async def close(self) -> None:
        """End. Requests in flight get Unavailable."""
        ...
