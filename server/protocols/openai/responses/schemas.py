"""Requests for responses, as far as they are served.

A request is read as `AnyResponse` first: whether it is for a vendor's model, to which it is sent on as it is, is known
once its `model` was looked up. For a model of this server it is read again, and what `ResponseRequest` does not know is
refused by name (`server.protocols.openai.responses.parameters`).
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Objects = Annotated[list[dict[str, Any]], Field(fail_fast=True)]


class AnyResponse(BaseModel):
    """`POST /responses`, whoever answers."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(min_length=1, max_length=512)
    stream: bool | None = None
    background: bool | None = None
    checkpoint: str | None = Field(default=None, max_length=512)
    """Pins a node of the model's tree, as in chats."""

    def given(self) -> dict[str, Any]:
        """The fields that were sent."""
        named = {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}
        return {**(self.model_extra or {}), **named}


class ResponseRequest(BaseModel):
    """A response of a model of this server. Unknown fields are kept in `model_extra`."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: str
    input: str | Annotated[Objects, Field(min_length=1)]
    instructions: str | None = None
    previous_response_id: str | None = Field(default=None, max_length=100)
    tools: Objects | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    include: Annotated[list[str], Field(fail_fast=True, max_length=32)] | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    max_output_tokens: int | None = Field(default=None, ge=1, lt=2**31)
    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, gt=0, le=1)
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    checkpoint: str | None = None
