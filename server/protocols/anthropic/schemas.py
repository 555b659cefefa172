"""Anthropic's requests, as far as they are served.

A request is read as `AnyMessages` first: whether it is for a vendor's model, to which it is sent on as it is, is known
once its `model` was looked up. For a model of this server it is read again, as one of the others, and what these do not
know is refused by name (`server.protocols.anthropic.parameters`).
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

StopSequence = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Objects = Annotated[list[dict[str, Any]], Field(fail_fast=True)]
Messages = Annotated[list[dict[str, Any]], Field(fail_fast=True, min_length=1)]


class AnyMessages(BaseModel):
    """`POST /v1/messages` and `/v1/messages/count_tokens`, whoever answers."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(min_length=1, max_length=512)
    messages: Messages
    stream: bool | None = None
    checkpoint: str | None = Field(default=None, max_length=512)
    """Pins a node of the model's tree, as in chats."""

    def given(self) -> dict[str, Any]:
        """The fields that were sent."""
        named = {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}
        return {**(self.model_extra or {}), **named}


class PromptRequest(BaseModel):
    """What decides about the prompt. Unknown fields are kept in `model_extra`."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: str
    messages: Messages
    checkpoint: str | None = None
    system: str | Objects | None = None
    tools: Objects | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    context_management: dict[str, Any] | None = None


class MessagesRequest(PromptRequest):
    """A message of a model of this server."""

    max_tokens: int = Field(ge=1, lt=2**31)
    stream: bool | None = None
    stop_sequences: Annotated[list[StopSequence], Field(fail_fast=True, max_length=16)] | None = None
    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0, lt=2**31)


class TokenCount(BaseModel):
    """The answer of `count_tokens`."""

    input_tokens: int
