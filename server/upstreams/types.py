"""Another vendor's model, and what it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Protocol, get_args
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field

from server.principals.callers import Caller
from server.sampling.requests import Rollout
from server.values.closed_requests import Closed

Api = Literal["openai", "anthropic", "gemini"]
APIS: tuple[Api, ...] = get_args(Api)

_VERSIONS = ("/v1", "/v1beta")


def _base_url(url: str) -> str:
    url = url.rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a base URL is http(s)://HOST, and the path before the API's own, if there is one")
    if parts.query or parts.fragment or parts.username or parts.password:
        raise ValueError("a base URL has no query, fragment, user or password; the key comes from its file")
    return url


def _key_file(path: str) -> str:
    if not PurePosixPath(path).is_absolute():
        raise ValueError("the key's file is named by its absolute path on the server's machine")
    return path


class Upstream(Closed):
    """Where a vendor's model is reached: the column `models.upstream`.

    base_url: as the vendor's own client takes it. model: what the vendor calls it. key_file: holds the vendor's key;
    servers read it when they ask.
    """

    api: Api
    base_url: Annotated[str, Field(max_length=1000), AfterValidator(_base_url)]
    model: str = Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$")
    key_file: Annotated[str, Field(max_length=1000), AfterValidator(_key_file)]

    @property
    def root(self) -> str:
        """The base URL without the API's version, which the paths of two of the three begin with."""
        if self.api == "openai":
            return self.base_url
        return next((self.base_url.removesuffix(v) for v in _VERSIONS if self.base_url.endswith(v)), self.base_url)


class UpstreamEntry(BaseModel):
    """An upstream as operators see it. It has no secret: the key stays in its file."""

    id: UUID
    name: str
    upstream: Upstream
    created_at: datetime


@dataclass(frozen=True, slots=True)
class UpstreamTarget:
    """Which vendor's model answers a request, and who asked."""

    caller: Caller
    model_id: UUID
    slug: str
    max_concurrent_rollouts: int | None
    upstream: Upstream


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer of a vendor: as a message of a chat, why it ended, and its number among the answers."""

    message: dict[str, Any]
    finish_reason: str | None = None


class ReplyReader(Protocol):
    """Reads one reply, in the vendor's words, for the record. Whatever has another form than expected is left out."""

    def whole(self, reply: Any) -> None:
        """All of it."""
        ...

    def event(self, data: Any) -> None:
        """The next event of a stream: its JSON; None for the word that ends it."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether all of it was read."""
        ...

    @property
    def id(self) -> str | None:
        """The vendor's id of the reply."""
        ...

    @property
    def usage(self) -> dict[str, Any] | None:
        """Tokens, as the vendor counts them."""
        ...

    def answers(self) -> Sequence[Answered]:
        """What was answered."""
        ...


@dataclass(frozen=True, slots=True)
class UpstreamCall:
    """A request in the vendor's own API.

    path: below `Upstream.root`. headers: those of the caller that are the vendor's business. key_header: in which the
    key is sent, and what stands before it. tools, messages: what is recorded. settings: of sampling, likewise.
    num_bytes: of the caller's request.
    """

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    key_header: tuple[str, str]
    body: Mapping[str, Any]
    streams: bool
    reader: ReplyReader
    tools: Sequence[Any]
    messages: Sequence[Any]
    settings: Mapping[str, Any]
    rollout: Rollout | None
    num_bytes: int
