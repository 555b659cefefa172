"""A vendor of models on this machine: it answers in the APIs of OpenAI, Anthropic and Gemini, whole or streamed."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.http_servers import serving


@dataclass
class Asked:
    """A request as it came. `is_gone` is set when its client disconnected before the end of the answer."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    is_gone: threading.Event = field(default_factory=threading.Event)


@dataclass
class Vendor:
    """What it is to answer, and what it was asked. `key_file`: holds the key that it wants.

    refuses: status, body and headers of the next answers, in turn. hangs: it never answers, or never ends a stream.
    """

    url: str
    key_file: Path
    key: str
    text: str = "42"
    asked: list[Asked] = field(default_factory=list[Asked])
    refuses: list[tuple[int, Any, dict[str, str]]] = field(default_factory=list[tuple[int, Any, dict[str, str]]])
    hangs: bool = False
    breaks: bool = False

    def base_url(self, api: str) -> str:
        """As the API's own client takes it."""
        return f"{self.url}/v1" if api == "openai" else self.url


@contextmanager
def vendor_of_models(folder: Path) -> Generator[Vendor]:
    """One that answers while the block runs."""
    key_file = folder / "vendor-key"
    key_file.write_text("vendor-secret-key\n")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            body = json.loads(self.rfile.read(length))
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.path, headers, body)
            vendor.asked.append(asked)
            if vendor.refuses:
                self._whole(*vendor.refuses.pop(0))
            elif _key_of(headers) != vendor.key:
                self._whole(401, {"error": {"message": f"Incorrect API key provided: {_key_of(headers)}"}})
            elif "stream" in self.path or body.get("stream"):
                self._stream(asked)
            else:
                if vendor.hangs:
                    self._wait(asked)
                self._whole(200, _whole(self.path, body, vendor.text))

        def _whole(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in (headers or {"Content-Type": "application/json"}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _stream(self, asked: Asked) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for number, event in enumerate(_events(self.path, asked.body, vendor.text)):
                if number == 2 and vendor.breaks:
                    self.close_connection = True
                    self.connection.close()
                    return
                if number == 2 and vendor.hangs:
                    self._wait(asked)
                    return
                for half in (event[: len(event) // 2], event[len(event) // 2 :]):
                    self._chunk(half)
            self._chunk(b"")

        def _chunk(self, data: bytes) -> None:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()

        def _wait(self, asked: Asked) -> None:
            self.connection.settimeout(30)
            if self.connection.recv(1) == b"":
                asked.is_gone.set()
            self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the library
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    vendor = Vendor(f"http://127.0.0.1:{server.server_port}", key_file, "vendor-secret-key")
    with serving(server):
        yield vendor


def _key_of(headers: dict[str, str]) -> str:
    bearer = headers.get("authorization", "").removeprefix("Bearer ")
    return bearer or headers.get("x-api-key", "") or headers.get("x-goog-api-key", "")


def _whole(path: str, body: dict[str, Any], text: str) -> dict[str, Any]:
    if path.startswith("/v1/chat/completions"):
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
        }
    if path.startswith("/v1/responses"):
        return _response(body, text)
    if path.startswith("/v1/messages/count_tokens"):
        return {"input_tokens": 7}
    if path.startswith("/v1/messages"):
        return {**_message(body), "content": [{"type": "text", "text": text}], "stop_reason": "end_turn"}
    return _content([{"text": text}], finishReason="STOP")


def _events(path: str, body: dict[str, Any], text: str) -> Iterator[bytes]:
    if path.startswith("/v1/chat/completions"):
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
        yield _event({**head, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        for character in text:
            yield _event({**head, "choices": [{"index": 0, "delta": {"content": character}}]})
        yield _event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
        yield _event({**head, "choices": [], "usage": usage})
        yield b"data: [DONE]\n\n"
    elif path.startswith("/v1/responses"):
        yield _event({"type": "response.created", "sequence_number": 0, "response": _response(body, "")}, named=True)
        yield _event(
            {"type": "response.completed", "sequence_number": 1, "response": _response(body, text)}, named=True
        )
    elif path.startswith("/v1/messages"):
        yield _event({"type": "message_start", "message": _message(body)}, named=True)
        block = {"type": "text", "text": ""}
        yield _event({"type": "content_block_start", "index": 0, "content_block": block}, named=True)
        for character in text:
            delta = {"type": "text_delta", "text": character}
            yield _event({"type": "content_block_delta", "index": 0, "delta": delta}, named=True)
        yield _event({"type": "content_block_stop", "index": 0}, named=True)
        ending = {"stop_reason": "end_turn", "stop_sequence": None}
        yield _event({"type": "message_delta", "delta": ending, "usage": {"output_tokens": 2}}, named=True)
        yield _event({"type": "message_stop"}, named=True)
    else:
        for character in text:
            yield _event(_content([{"text": character}]))
        yield _event(_content([{"text": ""}], finishReason="STOP"))


def _event(data: dict[str, Any], *, named: bool = False) -> bytes:
    name = f"event: {data['type']}\n" if named else ""
    return f"{name}data: {json.dumps(data)}\n\n".encode()


def _response(body: dict[str, Any], text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    message = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [part]}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": body["model"],
        "output": [message] if text else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": 7,
            "output_tokens": 2,
            "total_tokens": 9,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }


def _message(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 7, "output_tokens": 2},
    }


def _content(parts: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": parts}, "index": 0, **more}
    usage = {"promptTokenCount": 7, "candidatesTokenCount": 2, "totalTokenCount": 9}
    return {"candidates": [candidate], "usageMetadata": usage, "responseId": "g-1", "modelVersion": "vendor-gemini"}
