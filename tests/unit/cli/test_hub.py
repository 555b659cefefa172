"""A folder is sent to a hub by the hub's own client, which speaks to a stand-in of the API that it uses."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from cli.weights import hub
from wire.errors import Conflict, Unavailable

TOKEN = "hf_of-a-test"
WEIGHTS = bytes(range(256)) * 50


class Hub(ThreadingHTTPServer):
    """What it was told to keep: repositories, and the files of commits."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos: dict[str, dict[str, Any]] = {}
        self.blobs: dict[str, bytes] = {}
        self.files: dict[str, bytes] = {}
        self.messages: list[str] = []


class Handler(BaseHTTPRequestHandler):
    """The calls of `create_repo` and `upload_folder`."""

    server: Hub

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self._reply({})

    def do_GET(self) -> None:
        if self.path == "/api/whoami-v2" and self.headers["Authorization"] == f"Bearer {TOKEN}":
            self._reply({"name": "me", "type": "user", "auth": {"accessToken": {"role": "write"}}})
        else:
            self._reply({"error": "Invalid user token."}, 401)

    def do_PUT(self) -> None:
        self.server.blobs[self.path.rsplit("/", 1)[1]] = self._body()
        self._reply({})

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            if asked["name"] == "taken":
                self._reply({"error": "You don't have the rights to create a model under this namespace"}, 403)
                return
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.server.repos[name] = asked
            self._reply({"url": f"{self.server.url}/{name}", "name": name, "id": name})
        elif "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "lfs" if file["size"] > 4000 else "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self._reply({"files": files})
        elif self.path.endswith("/info/lfs/objects/batch"):
            wanted = json.loads(body)["objects"]
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}", "header": {}}}}
                for one in wanted
            ]
            self._reply({"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            self._commit([json.loads(line) for line in body.splitlines()])
            self._reply({"success": True, "commitUrl": f"{self.server.url}/me/x/commit/1", "commitOid": "1"})
        else:
            self._reply({"error": f"no stand-in for {self.path}"}, 404)

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.server.messages.append(value["summary"])
            elif line["key"] == "file":
                self.server.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.server.files[value["path"]] = self.server.blobs[value["oid"]]

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = list[bytes]()
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _reply(self, value: Any, status: int = 200) -> None:
        content = b"" if self.command == "HEAD" else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The client reads where the hub is when it is imported."""
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "adapter_config.json").write_text('{"r": 2}')
    (tmp_path / "adapter_model.safetensors").write_bytes(WEIGHTS)
    return tmp_path


def test_a_folder_is_one_commit_of_a_private_repository(stand_in: Hub, folder: Path):
    assert hub.require_hub() == "me"
    where = hub.push(folder, "me/sums", "sums, checkpoint 0003", private=True)
    assert where.startswith(stand_in.url)
    made = stand_in.repos["me/sums"]
    assert made.get("visibility") == "private" or made.get("private") is True, made
    assert stand_in.files == {"adapter_config.json": b'{"r": 2}', "adapter_model.safetensors": WEIGHTS}
    assert stand_in.messages == ["sums, checkpoint 0003"]
    assert hashlib.sha256(WEIGHTS).hexdigest() in stand_in.blobs


def test_what_the_hub_refuses_is_one_sentence(stand_in: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(Conflict, match="the hub refuses 'me/taken'"):
        hub.push(folder, "me/taken", "m", private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_nobody's")
    with pytest.raises(Conflict, match="refuses the token"):
        hub.require_hub()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="cannot be reached"):
        hub.require_hub()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Conflict, match="HF_HUB_OFFLINE"):
        hub.require_hub()
