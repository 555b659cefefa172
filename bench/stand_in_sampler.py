"""A sampler that computes nothing and answers as slowly as one would: for load on what stands in front of samplers.

It speaks the sampler port (`wire.sampling`), and `POST /v1/chat/completions` as far as a proxy for OpenAI's API asks
for it. An answer has 32 to 128 tokens, the first after 20 ms, the others every 15 ms; it says so in its usage, so that
a client can take the sampler's time out of what it measured. Costs 0.1 ms of processor time an answer.

    python -m bench.stand_in_sampler        # prints its port
    python -m bench.stand_in_sampler --any  # on every address of the machine, so that it stands in for many
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import socket
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import httptools
import uvloop
from pydantic_core import from_json, to_json

from wire.process.lifeline import follow_parent

PREFILL_S = 0.020
PER_TOKEN_S = 0.015
NUM_TOKENS = (32, 128)

_WORDS = [" the", " of", " and", " a", " in", " to", " is", "12", "+", "=", "\n", " answer", " so", " we", " get", "."]
_CHUNK_END = b"0\r\n\r\n"


def answer_s(num_tokens: int) -> float:
    """How long an answer takes."""
    return PREFILL_S + PER_TOKEN_S * (num_tokens - 1)


class StandIn(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._timers = list[asyncio.TimerHandle]()
        self._path, self._body = "", b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in self._timers:
            timer.cancel()

    def on_url(self, url: bytes) -> None:
        self._path, self._body = url.decode(), b""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        request: Any = from_json(self._body) if self._body else {}
        self._timers.clear()
        _ROUTES.get(self._path, StandIn._healthz)(self, request)

    def _healthz(self, request: Any) -> None:
        self._reply(b'{"status":"ok","data":[]}')

    def _render(self, request: Any) -> None:
        self._reply(to_json({"token_ids": _rendered(request)}))

    def _tokenize(self, request: Any) -> None:
        self._reply(to_json({"token_ids": _ids(request["text"])}))

    def _generate(self, request: Any) -> None:
        num_tokens, chat = random.randint(*NUM_TOKENS), request.get("chat")
        lines = [_whole(num_tokens)] if request.get("whole") else _lines(num_tokens)
        if chat:
            lines = [_with_prompt(lines[0], _rendered(chat)), *lines[1:]]
        if request.get("whole"):
            self._later(answer_s(num_tokens), lambda: self._reply(lines[0], b"application/x-ndjson"))
        else:
            self._later(PREFILL_S, lambda: self._stream(lines, 0, b"application/x-ndjson"))

    def _chat(self, request: Any) -> None:
        num_tokens = random.randint(*NUM_TOKENS)
        if request.get("stream"):
            pieces = _chat_chunks(num_tokens)
            self._later(PREFILL_S, lambda: self._stream(pieces, 0, b"text/event-stream"))
            return
        self._later(answer_s(num_tokens), lambda: self._reply(_chat_completion(num_tokens)))

    def _later(self, delay_s: float, act: Callable[[], None]) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(delay_s, act))

    def _reply(self, body: bytes, kind: bytes = b"application/json") -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n" % (kind, len(body))
        self._transport.write(head + body)

    def _stream(self, pieces: list[bytes], position: int, kind: bytes) -> None:
        """One piece now, the others every 15 ms."""
        piece = pieces[position]
        head = (
            b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % kind if not position else b""
        )
        is_last = position == len(pieces) - 1
        self._transport.write(head + b"%x\r\n%b\r\n" % (len(piece), piece) + (_CHUNK_END if is_last else b""))
        if not is_last:
            loop = asyncio.get_running_loop()
            self._timers[:] = [loop.call_later(PER_TOKEN_S, self._stream, pieces, position + 1, kind)]


_ROUTES: dict[str, Callable[[StandIn, Any], None]] = {
    "/render": StandIn._render,
    "/tokenize": StandIn._tokenize,
    "/generate": StandIn._generate,
    "/v1/chat/completions": StandIn._chat,
}


@cache
def _ids(text: str) -> list[int]:
    """A token for four characters."""
    return [sum(map(ord, text[i : i + 4])) for i in range(0, len(text), 4)]


def _tokens(num_tokens: int) -> list[tuple[int, str, float]]:
    return [(1000 + i, _WORDS[i % len(_WORDS)], -0.25 - i / 1000) for i in range(num_tokens)]


def _rendered(chat: Any) -> list[int]:
    following = chat["messages"][chat["continued_messages"] :]
    return [*(chat["continued_ids"] or []), *(i for message in following for i in _ids(message["content"]))]


def _with_prompt(line: bytes, prompt_ids: list[int]) -> bytes:
    return b'{"prompt_token_ids":%b,%b' % (to_json(prompt_ids), line[1:])


@cache
def _lines(num_tokens: int) -> list[bytes]:
    """A line for each token, as `GenerateEvent`s."""
    return [_line([token], "stop" if i == num_tokens - 1 else None) for i, token in enumerate(_tokens(num_tokens))]


@cache
def _whole(num_tokens: int) -> bytes:
    return _line(_tokens(num_tokens), "stop")


def _line(tokens: list[tuple[int, str, float]], reason: str | None) -> bytes:
    ids, texts, logprobs = (list(column) for column in zip(*tokens, strict=True))
    shown, text = {"ids": ids, "texts": texts, "logprobs": logprobs}, "".join(texts)
    event = {"tokens": shown, "text": text, "finish_reason": reason, "deltas": [{"content": text}]}
    event["message"] = {"content": text}
    return json.dumps(event).encode() + b"\n"


@cache
def _chat_completion(num_tokens: int) -> bytes:
    tokens = _tokens(num_tokens)
    content = [
        {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []}
        for _, text, logprob in tokens
    ]
    message = {"role": "assistant", "content": "".join(text for _, text, _ in tokens)}
    choice = {"index": 0, "message": message, "logprobs": {"content": content}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 100, "completion_tokens": num_tokens, "total_tokens": 100 + num_tokens}
    envelope = {"id": "c1", "object": "chat.completion", "created": 1, "model": "bench"}
    return json.dumps({**envelope, "choices": [choice], "usage": usage}).encode()


@cache
def _chat_chunks(num_tokens: int) -> list[bytes]:
    pieces = list[bytes]()
    for i, (_, text, _) in enumerate(_tokens(num_tokens)):
        choice = {
            "index": 0,
            "delta": {"content": text},
            "finish_reason": "stop" if i == num_tokens - 1 else None,
        }
        chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "bench", "choices": [choice]}
        pieces.append(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    pieces[-1] += b"data: [DONE]\n\n"
    return pieces


async def serve(host: str) -> None:
    listening = socket.create_server((host, 0), backlog=4096)
    server = await asyncio.get_running_loop().create_server(StandIn, sock=listening, backlog=4096)
    print(listening.getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    follow_parent()
    gc.disable()
    uvloop.run(serve("0.0.0.0" if "--any" in sys.argv else "127.0.0.1"))
