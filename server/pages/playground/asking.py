"""What the form of the playground asks for, and of whom."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from server.pages.shared.forms import as_request
from server.sampling.requests import Chat, Rollout, SampleRequest
from server.values.sanitizing import is_storable
from wire.errors import InvalidRequest
from wire.sampling import ParseOptions, RenderRequest, SamplingParams

Side = Literal["a", "b"]
SIDES: tuple[Side, ...] = ("a", "b")
MOST_TOKENS = 4096
_MOST_MESSAGES = 200


def _storable(text: str) -> str:
    if not is_storable(text):
        raise ValueError("holds characters that nothing here can be made of")
    return text


Text = Annotated[str, AfterValidator(_storable)]


class Message(BaseModel):
    """One of the conversation so far."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["user", "assistant"]
    content: Text


class Asked(BaseModel):
    """The form. `a`, `b`: models, as the API names them, with `:CHECKPOINT` or without; b may be empty. `state_a`,
    `state_b`: what was said before on that side. `record`: as rollouts, under the ids `trace_a` and `trace_b`."""

    model_config = ConfigDict(extra="forbid")

    a: Text = Field(min_length=1, max_length=600)
    b: Text = Field(default="", max_length=600)
    system: Text = Field(default="", max_length=20_000)
    prompt: Text = Field(min_length=1, max_length=40_000)
    temperature: float = Field(default=1.0, ge=0, le=100, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0, le=1, allow_inf_nan=False)
    max_tokens: int = Field(default=256, ge=1, le=MOST_TOKENS)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    record: bool = False
    state_a: list[Message] = Field(default_factory=list[Message], max_length=_MOST_MESSAGES)
    state_b: list[Message] = Field(default_factory=list[Message], max_length=_MOST_MESSAGES)
    trace_a: uuid.UUID | None = None
    trace_b: uuid.UUID | None = None

    def model_of(self, side: Side) -> str:
        """Of whom that side asks."""
        return self.a if side == "a" else self.b

    def said(self, side: Side) -> list[Message]:
        """The conversation of that side with the new prompt."""
        before = self.state_a if side == "a" else self.state_b
        return [*before, Message(role="user", content=self.prompt)]

    def trace_of(self, side: Side) -> uuid.UUID | None:
        """What that side is recorded under; None: nothing."""
        return (self.trace_a if side == "a" else self.trace_b) if self.record else None

    @property
    def sides(self) -> tuple[Side, ...]:
        """Those that somebody is asked on."""
        return SIDES if self.b else ("a",)

    def request(self, side: Side, *, whole: bool) -> SampleRequest:
        """In the core's terms."""
        messages = [one.model_dump() for one in self.said(side)]
        if self.system:
            messages = [{"role": "system", "content": self.system}, *messages]
        params = SamplingParams(
            max_tokens=self.max_tokens, temperature=self.temperature, top_p=self.top_p, seed=self.seed
        )
        trace_id = self.trace_of(side)
        num_bytes = sum(len(one["content"]) for one in messages)
        rollout = Rollout(trace_id, num_bytes) if trace_id else None
        chat = Chat(RenderRequest(messages=messages), ParseOptions(), messages)
        return SampleRequest([chat], params, whole=whole, rollout=rollout)


_MESSAGES = TypeAdapter(list[Message])


def asked_by(fields: Mapping[str, str]) -> Asked:
    """Raises InvalidRequest. Fields that are empty say nothing."""
    values: dict[str, Any] = {name: value.strip() for name, value in fields.items() if value.strip()}
    values.pop("side", None)
    if "prompt" in values:
        values["prompt"] = fields["prompt"]
    for name in ("state_a", "state_b"):
        if name in values:
            values[name] = [one.model_dump() for one in read_state(values[name])]
    asked = as_request(Asked, values)
    for side in asked.sides:
        if asked.record and asked.trace_of(side) is None:
            setattr(asked, f"trace_{side}", uuid.uuid4())
    return asked


def as_state(messages: list[Message]) -> str:
    """For the form's next turn."""
    return _MESSAGES.dump_json(messages).decode()


def read_state(text: str) -> list[Message]:
    """What was said before; nothing in an empty text. Raises InvalidRequest."""
    try:
        return _MESSAGES.validate_python(json.loads(text)) if text else []
    except (ValueError, RecursionError, ValidationError):
        raise InvalidRequest("the conversation so far cannot be read; begin a new one") from None
