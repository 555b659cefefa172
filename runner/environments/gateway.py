"""What environments may reach: the gateway's routes that sample, and nothing else of it.

The environment calls a plain HTTP address on its loopback, with any key. Here, outside, the key of its team's agents is
put in, and the rollout that it is for; so no key is inside. Calls of an environment are not recorded as samples of its
rollout (`Headway-Rollout`).
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator

import h11
import httpx

from runner.environments.settings import Gateway

_SAMPLES = re.compile(r"(/v1)?/(chat/completions|completions|messages(/count_tokens)?|responses)")
_MAX_BODY, _MAX_HELD = 32 << 20, 64 << 20
_MAX_CONNECTIONS = 64
_NOT_PASSED_ON = {
    *(b"authorization", b"x-api-key", b"x-goog-api-key", b"cookie", b"host", b"trace-id", b"headway-rollout"),
    *(b"connection", b"proxy-connection", b"keep-alive", b"te", b"trailer", b"upgrade", b"expect"),
    *(b"content-length", b"transfer-encoding", b"accept-encoding", b"forwarded", b"x-forwarded-for"),
}
_NOT_RETURNED = {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "set-cookie"}


class GatewayRelay:
    """Of one session. Until it belongs to a rollout, it refuses every call."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._team: str | None = None
        self._trace_id: str | None = None
        self._server: asyncio.Server | None = None
        self._client: httpx.AsyncClient | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.held_bytes = 0
        """Of requests that are being received or answered, in this process's memory."""

    def belongs_to(self, team: str, trace_id: str | None) -> None:
        """Whose calls they are from now on."""
        self._team, self._trace_id = team, trace_id

    async def serve(self, listener: socket.socket) -> None:
        """On a listener that was made inside a sandbox."""
        listener.setblocking(False)
        self._server = await asyncio.start_server(self._accept, sock=listener)

    async def listen(self) -> int:
        """On this machine's loopback; returns the port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            if len(self._tasks) <= _MAX_CONNECTIONS:
                await _Exchange(reader, writer).run(self)
        except (OSError, h11.ProtocolError, asyncio.CancelledError):
            pass  # asyncio's streams would log that this task was cancelled
        finally:
            writer.close()

    async def answer(self, exchange: _Exchange, request: h11.Request, body: bytes) -> None:
        path = request.target.partition(b"?")[0].decode("latin-1")
        if request.method != b"POST" or not _SAMPLES.fullmatch(path):
            await exchange.refuse(
                403, "environments may make model calls alone: POST /v1/chat/completions and its like"
            )
            return
        key = self._gateway.key_of(self._team) if self._team else None
        if self._trace_id is None or key is None:
            await exchange.refuse(403, "model calls of an environment need a rollout that runs here; this one has none")
            return
        headers = [(name, value) for name, value in request.headers if name not in _NOT_PASSED_ON]
        headers += [(b"authorization", f"Bearer {key}".encode()), (b"headway-rollout", self._trace_id.encode())]
        if self._client is None:
            self._client = httpx.AsyncClient(
                timeout=httpx.Timeout(600.0, connect=10.0), trust_env=False, verify=self._gateway.verify
            )
        url = self._gateway.url.rstrip("/") + path
        try:
            async with self._client.stream("POST", url, headers=headers, content=body) as response:
                await exchange.pass_on(response.status_code, response.headers.multi_items(), response.aiter_bytes())
        except httpx.HTTPError as error:
            await exchange.refuse(502, f"the gateway cannot be reached: {type(error).__name__}")


class _Exchange:
    """Requests of one connection, one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._http = h11.Connection(h11.SERVER)

    async def run(self, relay: GatewayRelay) -> None:
        while True:
            request = await self._event()
            if not isinstance(request, h11.Request):
                return
            body = bytearray()
            try:
                while isinstance(event := await self._event(), h11.Data):
                    body += event.data
                    relay.held_bytes += len(event.data)
                    if len(body) > _MAX_BODY or relay.held_bytes > _MAX_HELD:
                        sentence = f"a model call may have {_MAX_BODY >> 20} MiB, and all at a time {_MAX_HELD >> 20}"
                        await self.refuse(413, sentence)
                        return
                await relay.answer(self, request, bytes(body))
            finally:
                relay.held_bytes -= len(body)
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    async def refuse(self, status: int, sentence: str) -> None:
        """In the shape that model clients read. Nothing, where an answer has begun."""
        if self._http.our_state is not h11.SEND_RESPONSE:
            self._writer.close()
            return
        body = json.dumps({"error": {"message": sentence, "type": "headway_runner", "code": str(status)}}).encode()
        head = [("content-type", "application/json"), ("content-length", str(len(body)))]
        await self._send(h11.Response(status_code=status, headers=head), h11.Data(data=body), h11.EndOfMessage())

    async def pass_on(self, status: int, headers: list[tuple[str, str]], body: AsyncIterator[bytes]) -> None:
        kept = [(name, value) for name, value in headers if name.lower() not in _NOT_RETURNED]
        await self._send(h11.Response(status_code=status, headers=[*kept, ("transfer-encoding", "chunked")]))
        async for chunk in body:
            await self._send(h11.Data(data=chunk))
        await self._send(h11.EndOfMessage())

    async def _event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            self._http.receive_data(await self._reader.read(64 << 10))
        return event

    async def _send(self, *events: h11.Event) -> None:
        for event in events:
            data = self._http.send(event)
            if data:
                self._writer.write(data)
        await self._writer.drain()
