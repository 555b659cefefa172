"""What a runner and its agent processes say to each other: one JSON object a line, over a pair of sockets."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from wire.placements import RolloutSpec

MAX_LINE_BYTES = 64 * 1024 * 1024


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Settings(_Message):
    """To the process, first: where the server is, and the key of its team's agents. Not in its environment, where
    other processes of the same user can read it."""

    server: str
    key: str


class Drive(_Message):
    """To the process: carry out a rollout. `environment`: the name that tasks give it; `address`: `tcp://HOST:PORT` of
    its session. `verifier_address`: of the session in which its result is verified, where that is another
    environment's. `timeout_s`: from now on."""

    kind: Literal["drive"] = "drive"
    id: str
    rollout: RolloutSpec
    environment: str
    address: str
    verifier_address: str | None = None
    timeout_s: float


class Cancel(_Message):
    """To the process: stop that rollout. Its `Driven` comes when it has stopped."""

    kind: Literal["cancel"] = "cancel"
    id: str


class Hello(_Message):
    """From the process, first: it has imported the SDK."""

    kind: Literal["hello"] = "hello"
    sdk: str


class Driven(_Message):
    """From the process: a rollout is over, and all that the SDK had to report of it was sent. `error`: why it did not
    come to a result at all, which the SDK does not report by itself. `void`: why what it reported does not count: the
    server did not take all of it, or refused the key in between."""

    kind: Literal["driven"] = "driven"
    id: str
    error: str | None = None
    void: str | None = None
