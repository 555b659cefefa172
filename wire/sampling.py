"""Requests and replies between server and sampler: tokens in, tokens out.

Rendering of chats and parsing of answers happen on the sampler's side of this border, next to the tokenizer.
A sampler serves `POST /render`, `/tokenize`, `/token-texts`, `/generate` and `/score` with these types, and `GET
/healthz`. Pictures cross it by name. A sampler that lacks the bytes of some answers 424 with the code PICTURES_MISSING
and their names before it does anything else; `POST /pictures/{name}` with the canonical PNG hands it one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from wire.pictures import PictureLimits

PICTURES_MISSING = "pictures_missing"


class MediaItem(BaseModel):
    """A picture in a prompt: its run of placeholder ids, its name, and its size in pixels."""

    start: int = Field(ge=0)
    num_tokens: int = Field(ge=1)
    name: str = Field(pattern="^[0-9a-f]{64}$")
    width: int = Field(ge=1, le=PictureLimits().side)
    height: int = Field(ge=1, le=PictureLimits().side)


class ForcedCalls(BaseModel):
    """The answer consists of calls of these tools: one, or, if not `single`, one or more."""

    tools: list[dict[str, Any]]
    single: bool = False


class Constraint(BaseModel):
    """What an answer has to be: exactly one of the first five."""

    model_config = ConfigDict(extra="forbid")

    json_schema: dict[str, Any] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    """In Lark's notation."""
    calls: ForcedCalls | None = None

    after_reasoning: dict[str, Any] | None = None
    """The prompt is a chat's, rendered with these `chat_template_kwargs`: a backend that separates reasoning while
    it samples constrains only what comes after. None: the constraint holds from the first token on."""


class SamplingParams(BaseModel):
    """How to sample. Logprobs are always those of the distribution sampled from, after temperature and top-p/k."""

    model_config = ConfigDict(extra="forbid")

    max_tokens: int | None = Field(default=None, ge=1)  # None: up to the context length
    temperature: float = Field(default=1.0, ge=0.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0)  # 0: off
    min_tokens: int = Field(default=0, ge=0)
    seed: int | None = None
    stop: list[str] = Field(default_factory=list)
    stop_token_ids: list[int] = Field(default_factory=list)
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    """False: the text, in which stop strings are found, has control tokens by their names."""
    top_logprobs: int = Field(default=0, ge=0, le=20)
    constraint: Constraint | None = None


class Flow(BaseModel):
    """Whose work it is: in a sampler, teams take turns, and within a team its calls do. `call`: all that one request to
    the gateway asks for; empty: this alone."""

    team: str = ""
    call: str = ""


class RenderRequest(Flow):
    """Messages to token ids.

    A message's content is text, or a list of `{"type": "text", "text"}` and `{"type": "picture", "name", "width",
    "height"}`.

    With `continued_ids`, those ids cover `messages[:continued_messages]` and come back untouched, followed by the
    rendering of the messages after them. `continued_media`: what pictures some of them stand for.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = Field(default_factory=list)
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    add_generation_prompt: bool = True
    continued_ids: list[int] | None = None
    continued_messages: int = 0
    continued_media: list[MediaItem] = Field(default_factory=list[MediaItem])


class TokenizeRequest(Flow):
    """Plain text to token ids, for the completions endpoint."""

    text: str


class TokenIds(BaseModel):
    """The answer to render and tokenize."""

    token_ids: list[int]
    media: list[MediaItem] = Field(default_factory=list[MediaItem])


MAX_TOKEN_TEXTS = 4096


class TokenTextsRequest(BaseModel):
    """Ids of which the texts are wanted, for people to read."""

    token_ids: list[int] = Field(max_length=MAX_TOKEN_TEXTS)


class TokenTexts(BaseModel):
    """The answer: of each token alone, control tokens by their names; empty for part of a character, and for what no
    token is. `special`: places of control tokens."""

    texts: list[str]
    special: list[int]


class ParseOptions(BaseModel):
    """What decides how an answer to a chat is read: OpenAI's `tools` and `tool_choice`, as the prompt had them."""

    tools: list[dict[str, Any]] = Field(default_factory=list)
    tool_choice: str | dict[str, Any] = "auto"
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)


class GenerateRequest(Flow):
    """One sequence to sample under one adapter, after a prompt: its ids, or a chat, which is rendered first."""

    adapter: str
    prompt_token_ids: list[int] = Field(default_factory=list[int])
    prompt_media: list[MediaItem] = Field(default_factory=list[MediaItem])
    chat: RenderRequest | None = None
    """In place of the ids; the first event then says what they are."""
    params: SamplingParams
    whole: bool = False
    """Nobody reads along: the answer may come as one event, at the end."""
    reading: ParseOptions | None = None
    """Read the answer as a chat's: into the last event's `message` where it is whole, else, as far as it
    has come, into the events' `deltas`."""


MAX_TOP_PROMPT_LOGPROBS = 128


class ScoreRequest(Flow):
    """Logprobs of a prompt's own tokens under one adapter, at temperature 1 and over the whole vocabulary.

    last_n: of the last so many tokens only (None: of all). top_logprobs: how many alternatives of each. targets: for
    each token after the first, ids whose logprobs in its place are asked for; −1 asks for nothing.
    """

    adapter: str
    prompt_token_ids: list[int]
    prompt_media: list[MediaItem] = Field(default_factory=list[MediaItem])
    last_n: int | None = Field(default=None, ge=1)
    top_logprobs: int = Field(default=0, ge=0, le=MAX_TOP_PROMPT_LOGPROBS)
    targets: list[list[int]] | None = None

    @property
    def first(self) -> int:
        """Index of the first token that is scored; token 0 has nothing before it."""
        return max(1, len(self.prompt_token_ids) - (self.last_n or len(self.prompt_token_ids)))


class PromptScores(BaseModel):
    """The answer: one entry for each scored token, in order. `logprobs`: of the token itself. `top_ids`,
    `top_logprobs`: the likeliest first. `targets`: in the layout in which they were asked for, also of tokens that are
    not scored, with None in place of −1. Tokens of pictures have none of these: None, an empty row, a row of None."""

    logprobs: list[float | None]
    top_ids: list[list[int]] = Field(default_factory=list[list[int]])
    top_logprobs: list[list[float]] = Field(default_factory=list[list[float]])
    targets: list[list[float | None]] | None = None


class TopLogprob(BaseModel):
    """One alternative of a position."""

    token_id: int
    token: str
    logprob: float


@dataclass(slots=True)
class SampledTokens:
    """Sampled tokens, in columns: an object a token would cost more to read than all else of an answer.

    A token's text is its own alone, empty for part of a multi-byte character. `top_logprobs`: a row a token where
    alternatives were asked for, else nothing. `raw`: of ids whose part of the answer is not their text, sampled or
    alternatives, the bytes in hexadecimal: of parts of characters, and of control tokens, which have none.
    Raises ValueError for columns that do not fit together.
    """

    ids: list[int] = field(default_factory=list[int])
    texts: list[str] = field(default_factory=list[str])
    logprobs: list[float] = field(default_factory=list[float])
    top_logprobs: list[list[TopLogprob]] = field(default_factory=list[list[TopLogprob]])
    raw: dict[int, str] = field(default_factory=dict[int, str])

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.texts) == len(self.logprobs) or len(self.top_logprobs) not in (0, len(self)):
            raise ValueError("columns of sampled tokens differ in length")

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, token_id: int, text: str, logprob: float, alternatives: list[TopLogprob] | None) -> None:
        """One more token; `alternatives` None: not asked for."""
        self.ids.append(token_id)
        self.texts.append(text)
        self.logprobs.append(logprob)
        if alternatives is not None:
            self.top_logprobs.append(alternatives)

    def extend(self, more: SampledTokens) -> None:
        """The next tokens of the same answer."""
        self.ids += more.ids
        self.texts += more.texts
        self.logprobs += more.logprobs
        self.top_logprobs += more.top_logprobs
        self.raw.update(more.raw)

    def bytes_of(self, token_id: int, text: str) -> bytes:
        """A token's part of the answer; those of all tokens make up the answer's text."""
        raw = self.raw.get(token_id)
        return text.encode() if raw is None else bytes.fromhex(raw)


class CallDelta(BaseModel):
    """A piece of a tool call: its name first, then its arguments, as JSON text in one or several pieces."""

    index: int
    name: str | None = None
    arguments: str = ""


class MessageDelta(BaseModel):
    """A piece of an answer that was read."""

    reasoning_content: str | None = None
    content: str | None = None
    tool_calls: list[CallDelta] = Field(default_factory=list[CallDelta])


class ParsedCall(BaseModel):
    """A tool call read out of an answer; `arguments` is JSON text as the policy wrote it."""

    name: str
    arguments: str


class ParsedMessage(BaseModel):
    """What an answer says."""

    content: str | None
    reasoning_content: str | None = None
    tool_calls: list[ParsedCall] = Field(default_factory=list[ParsedCall])


class GenerateEvent(BaseModel):
    """One line of the answer to generate (NDJSON): newly sampled tokens, the text they settle, and, last, why it
    ended. `text` never holds half a character, nor anything from a stop string on."""

    tokens: SampledTokens = Field(default_factory=SampledTokens)
    text: str = ""
    finish_reason: Literal["stop", "length"] | None = None
    deltas: list[MessageDelta] = Field(default_factory=list[MessageDelta])
    message: ParsedMessage | None = None
    prompt_token_ids: list[int] | None = None
    """Of the first event, where the request had a chat."""
    prompt_media: list[MediaItem] = Field(default_factory=list[MediaItem])
    """Of the same event: the pictures in that chat."""


class DerenderRequest(ParseOptions):
    """A sampled answer to be read: its ids, and the text (already cut at a stop string), after a prompt."""

    token_ids: list[int]
    text: str
    prompt_token_ids: list[int] = Field(default_factory=list[int])
