"""Sends a request on to a vendor, with the vendor's key, and hands back what comes: whole, or as it comes.

Nothing is tried again here: the caller's client does that, by the status and the `Retry-After` that the vendor sent.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import ClassVar

import httpx
import structlog

from server.sampling.collaborators import Sampling
from server.sampling.fencing import fence
from server.upstreams.events import JsonEvents
from server.upstreams.keys import vendors_key
from server.upstreams.recording import served_by_vendor
from server.upstreams.types import UpstreamCall, UpstreamTarget
from wire.errors import UNTIL_MENDED, Forbidden, HeadwayError
from wire.process.off_loop import off_loop

log = structlog.get_logger(__name__)

_CONNECT_S, _READ_S = 10.0, 600.0
_MOST_BYTES = 64 * 1024**2
_KEPT_HEADERS = ("content-type", "retry-after", "retry-after-ms", "x-should-retry", "request-id", "x-request-id")
_HIDDEN = b"(the key)"


class UpstreamFailed(HeadwayError):
    """A vendor could not be reached, or broke off."""

    status: ClassVar[int] = 502
    code: ClassVar[str] = "upstream_failed"
    tries: ClassVar[int | None] = UNTIL_MENDED


class UpstreamTimedOut(HeadwayError):
    """A vendor did not answer in time."""

    status: ClassVar[int] = 504
    code: ClassVar[str] = "upstream_timed_out"
    tries: ClassVar[int | None] = UNTIL_MENDED


@dataclass(frozen=True, slots=True)
class VendorReply:
    """A reply as the vendor sent it, an error too."""

    status: int
    headers: dict[str, str]
    content: bytes


@dataclass(frozen=True, slots=True)
class VendorStream:
    """A stream that has begun. `chunks` raise UpstreamFailed or UpstreamTimedOut where it breaks."""

    headers: dict[str, str]
    chunks: AsyncGenerator[bytes]
    _opened: AsyncExitStack

    async def aclose(self) -> None:
        """Disconnect from the vendor, wherever the stream is."""
        await self.chunks.aclose()
        await self._opened.aclose()


class Upstreams:
    """The connections of one server process to vendors."""

    def __init__(self, sampling: Sampling, *, read_s: float = _READ_S) -> None:
        self._sampling = sampling
        self._timeouts = httpx.Timeout(read_s, connect=_CONNECT_S)
        self._opened: httpx.AsyncClient | None = None

    async def close(self) -> None:
        """Disconnect."""
        if self._opened is not None:
            await self._opened.aclose()

    async def send(self, target: UpstreamTarget, call: UpstreamCall) -> VendorReply | VendorStream:
        """What the vendor answers. A whole answer is on record when it returns, that of a stream when its last event is
        yielded.

        Raises Forbidden where the rollout is not the caller's, or the vendor refuses the server's key,
        TooManyRequests, Unavailable, UpstreamFailed, UpstreamTimedOut.
        """
        sampling = self._sampling
        rollout = await fence(sampling.database, target.caller, target.model_id, call.rollout)
        call = replace(call, rollout=rollout)
        began = time.monotonic()
        async with AsyncExitStack() as opened:
            slot = sampling.limits.slot(target.caller.team_id, target.max_concurrent_rollouts)
            await opened.enter_async_context(slot)
            response = await self._response(target, call, opened)
            headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
            if not call.streams or not response.is_success:
                return await self._whole(target, call, response, headers, began)
            return VendorStream(headers, self._chunks(target, call, response, began), opened.pop_all())
        raise AssertionError("the stack suppresses nothing")

    @property
    def _client(self) -> httpx.AsyncClient:
        """Made when it is first needed: it loads the certificates of the system."""
        if self._opened is None:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
            self._opened = httpx.AsyncClient(timeout=self._timeouts, limits=limits)
        return self._opened

    async def _response(self, target: UpstreamTarget, call: UpstreamCall, opened: AsyncExitStack) -> httpx.Response:
        name, before = call.key_header
        key = await vendors_key(target)
        content = await off_loop(call.num_bytes, _encoded, call)
        headers = {**call.headers, "content-type": "application/json", "accept-encoding": "identity"}
        headers |= {"user-agent": "headway", name: f"{before}{key}"}
        url = f"{target.upstream.root}{call.path}"
        try:
            response = await opened.enter_async_context(
                self._client.stream("POST", url, params=dict(call.query), headers=headers, content=content)
            )
            if response.status_code == 401:
                log.error("upstream_key_refused", upstream=target.slug)
                raise Forbidden(
                    f"the vendor refused this server's key of the upstream {target.slug!r}; an operator can replace it "
                    "in its file"
                )
        except httpx.HTTPError as error:
            raise _failure(target, error) from None
        return response

    async def _whole(
        self,
        target: UpstreamTarget,
        call: UpstreamCall,
        response: httpx.Response,
        headers: dict[str, str],
        began: float,
    ) -> VendorReply:
        content = bytearray()
        try:
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > _MOST_BYTES:
                    raise UpstreamFailed(f"{target.slug!r} answered with more than {_MOST_BYTES} bytes")
        except httpx.HTTPError as error:
            raise _failure(target, error) from None
        if response.is_success:
            await off_loop(len(content), _read_whole, call, bytes(content))
            await self._keep(target, call, began, len(content))
            return VendorReply(response.status_code, headers, bytes(content))
        log.warning("upstream_refused", upstream=target.slug, status=response.status_code)
        if 300 <= response.status_code < 400:
            raise UpstreamFailed(f"{target.slug!r} is redirected elsewhere; an operator can correct its base URL")
        return VendorReply(response.status_code, headers, await self._without_key(target, bytes(content)))

    async def _chunks(
        self, target: UpstreamTarget, call: UpstreamCall, response: httpx.Response, began: float
    ) -> AsyncGenerator[bytes]:
        events, num_bytes, is_kept = JsonEvents(), 0, False
        try:
            async for chunk in response.aiter_bytes():
                num_bytes += len(chunk)
                for event in events.feed(chunk):
                    call.reader.event(event)
                if call.reader.is_complete and not is_kept:
                    is_kept = True
                    await self._keep(target, call, began, num_bytes)
                yield chunk
        except httpx.HTTPError as error:
            raise _failure(target, error) from None
        if not is_kept:
            await self._keep(target, call, began, num_bytes)

    async def _keep(self, target: UpstreamTarget, call: UpstreamCall, began: float, num_reply_bytes: int) -> None:
        if call.rollout is not None:
            recorder = self._sampling.recorder
            at = recorder.clock.now()
            await recorder.keep(served_by_vendor(at, target, call, call.rollout, began, num_reply_bytes))

    async def _without_key(self, target: UpstreamTarget, content: bytes) -> bytes:
        """An error, should the vendor have repeated the key in it."""
        return content.replace((await vendors_key(target)).encode(), _HIDDEN)


def _encoded(call: UpstreamCall) -> bytes:
    return json.dumps(call.body, separators=(",", ":")).encode()


def _read_whole(call: UpstreamCall, content: bytes) -> None:
    try:
        reply = json.loads(content)
    except (ValueError, RecursionError):
        reply = None
    call.reader.whole(reply)


def _failure(target: UpstreamTarget, error: httpx.HTTPError) -> HeadwayError:
    what = type(error).__name__
    log.warning("upstream_failed", upstream=target.slug, reason=what)
    if isinstance(error, httpx.TimeoutException):
        return UpstreamTimedOut(f"{target.slug!r} did not answer in time ({what}); try again")
    return UpstreamFailed(f"{target.slug!r} could not be reached, or broke off ({what}); try again")
