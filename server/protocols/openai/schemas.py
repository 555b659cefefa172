"""OpenAI's chat completions and completions, as far as we serve them, with the extensions for training.

Requests keep what they do not know, and `server.protocols.openai.parameters` refuses it by name. Replies leave out the
fields that were not set, so whoever makes one sets every field that shall be seen.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, StringConstraints
from typing_extensions import TypedDict

MAX_CHOICES = 128

StopString = Annotated[str, StringConstraints(min_length=1, max_length=256)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Texts = Annotated[list[str], Field(fail_fast=True)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True, max_length=2**22)]
"""No base has room for as many."""
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class StreamOptions(BaseModel):
    """What a stream carries besides the answer."""

    model_config = ConfigDict(extra="allow")

    include_usage: bool = False


class SamplingRequest(BaseModel):
    """What both kinds of completion share. Unknown fields are kept in `model_extra`."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: str = Field(min_length=1, max_length=512)
    n: int = Field(default=1, ge=1, le=MAX_CHOICES)
    stream: bool = False
    stream_options: StreamOptions | None = None
    seed: Seed | None = None
    stop: StopString | Annotated[list[StopString], Field(fail_fast=True, max_length=16)] | None = None
    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, lt=2**31)
    min_tokens: int | None = Field(default=None, ge=0, lt=2**31)
    stop_token_ids: Annotated[list[TokenId], Field(fail_fast=True, max_length=256)] | None = None
    ignore_eos: bool = False

    response_format: Any = None
    structured_outputs: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None

    checkpoint: str | None = Field(default=None, max_length=512)
    """Pins a node of the model's tree instead of the head: its sampler path, id, name, or `slug/name`."""
    return_token_ids: bool = False


class ChatRequest(SamplingRequest):
    """`POST /chat/completions`."""

    messages: Annotated[list[dict[str, Any]], Field(fail_fast=True, min_length=1)]
    max_tokens: int | None = Field(
        default=None, ge=1, lt=2**31, validation_alias=AliasChoices("max_completion_tokens", "max_tokens")
    )
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    prompt_token_ids: TokenIds | None = None
    """Ids of the messages before the boundary that `continuation_from` counts; they come back untouched."""
    continuation_from: int | None = Field(default=None, ge=1, lt=2**31)


class CompletionRequest(SamplingRequest):
    """`POST /completions`."""

    prompt: str | Texts | TokenIds | Annotated[list[TokenIds], Field(fail_fast=True)]
    max_tokens: int = Field(default=16, ge=1, lt=2**31)
    logprobs: int | None = Field(default=None, ge=0, le=20)


class PromptTokensDetails(BaseModel):
    """Where the prompt's tokens came from."""

    cached_tokens: int


class Usage(BaseModel):
    """Tokens of a request: its prompts once, its answers together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class FunctionCall(BaseModel):
    """The function that the policy calls; arguments are JSON text as it wrote them. In streams the name comes once,
    the arguments in pieces."""

    name: str | None = None
    arguments: str


class ToolCall(BaseModel):
    """One tool call. `index` only in streams, where `id` and `type` come once."""

    index: int | None = None
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionCall


class ChatMessage(BaseModel):
    """An answer, or a piece of one in a stream."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None


class TokenAlternative(TypedDict):
    """A token that could have been sampled at a position. (A dict: a reply has thousands of these.)"""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TokenAlternative):
    """A sampled token and the alternatives."""

    top_logprobs: list[TokenAlternative]


class ChatLogprobs(BaseModel):
    """One entry for each sampled token, the end token included."""

    content: list[TokenLogprob]


class CompletionLogprobs(BaseModel):
    """The same in the completions endpoint's columns."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class ChatChoice(BaseModel):
    """One answer (`message`), or a piece of one (`delta`)."""

    index: int
    message: ChatMessage | None = None
    delta: ChatMessage | None = None
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    prompt_token_ids: list[int] | None = None
    prompt_chunks: list[dict[str, Any]] | None = None
    """The same prompt where it has pictures, each as one chunk that names it."""
    token_ids: list[int] | None = None


class CompletionChoice(BaseModel):
    """One answer, or a piece of one."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    prompt_token_ids: list[int] | None = None
    token_ids: list[int] | None = None


class ServingCheckpoint(BaseModel):
    """The checkpoint that answered a request."""

    id: str
    name: str
    step: int


class Completion(BaseModel):
    """A reply or a chunk of one. `checkpoint` names what was sampled from; null: the base weights."""

    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChoice] | list[CompletionChoice]
    usage: Usage | None = None
    prompt_token_ids: list[int] | None = None
    checkpoint: ServingCheckpoint | None


class ListedModel(BaseModel):
    """A model in the gateway's list: OpenAI's fields, vLLM's `max_model_len`, and those that old clients of ours read.

    max_model_len: tokens of prompt and answer together; input_modalities: "text", or "text" and "image". Both are null
    until a worker has loaded the base.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    name: str
    model: str
    max_model_len: int | None
    input_modalities: list[str] | None
    routes: list[str] = Field(default_factory=list[str])


class ModelList(BaseModel):
    """`GET /models`."""

    object: Literal["list"] = "list"
    data: list[ListedModel]
