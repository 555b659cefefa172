"""A base on the hub: whether it can be had is said within seconds, with what to do."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants
from structlog.testing import capture_logs

from wire.process.hub_weights import WeightsOutOfReach, fetch_weights, require_weights

MODEL = "someone/some-model"
CONTENT = {"config.json": b"{}", "model.safetensors": bytes(40_000_000)}


class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        content = CONTENT.get(self.path.rpartition("/")[2], b"")
        self.send_response(200 if self.path.startswith(f"/{MODEL}/") else 404)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{len(content)}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()

    def do_GET(self) -> None:
        """The routes of a download: what there is, and the files, slowly."""
        name = self.path.rpartition("/")[2]
        if self.path.startswith(f"/api/models/{MODEL}"):
            siblings = [{"rfilename": name, "size": len(content)} for name, content in CONTENT.items()]
            tree = [{"type": "file", "path": name, "size": len(c), "oid": "1" * 40} for name, c in CONTENT.items()]
            about = {"id": MODEL, "modelId": MODEL, "sha": "a" * 40, "siblings": siblings}
            self._send(json.dumps(tree if "/tree/" in self.path else about).encode(), slowly=False)
        else:
            self._send(CONTENT[name], slowly=name.endswith(".safetensors"))

    def _send(self, content: bytes, *, slowly: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{len(content)}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()
        half = len(content) // 2
        self.wfile.write(content[:half])
        if slowly:
            time.sleep(0.3)
        self.wfile.write(content[half:])

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(autouse=True)
def an_empty_cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache"


@pytest.fixture
def hub(monkeypatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    yield url
    server.shutdown()
    server.server_close()


def put_in(cache: Path, *files: str) -> None:
    folder = cache / "models--someone--some-model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    for name in files:
        (folder / "snapshots" / "abc" / name).write_text("{}")


def test_a_folder_and_a_model_that_the_hub_has_are_taken(hub: str, tmp_path: Path):
    require_weights(str(tmp_path))
    require_weights(MODEL)


def test_a_model_that_the_hub_does_not_have_is_named(hub: str):
    with pytest.raises(WeightsOutOfReach, match=r"no model 'someone/else' for us \(404\): .*--base .*HF_TOKEN"):
        require_weights("someone/else")


def test_a_hub_that_refuses_connections_is_named(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        WeightsOutOfReach, match=r"http://127.0.0.1:9 cannot be reached .*--base .*HF_ENDPOINT.*HF_HOME"
    ):
        require_weights(MODEL)


def test_a_hub_that_never_answers_is_given_up_within_seconds(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr("wire.process.hub_weights._ANSWER_S", 0.2)
        began = time.monotonic()
        with pytest.raises(WeightsOutOfReach, match="cannot be reached"):
            require_weights(MODEL)
        assert time.monotonic() - began < 60


def test_what_is_in_the_cache_does_without_the_hub_and_a_part_of_it_does_not(monkeypatch, an_empty_cache: Path):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    put_in(an_empty_cache, "config.json", "model-00001.safetensors")
    folder = an_empty_cache / "models--someone--some-model" / "snapshots" / "abc"
    shards = {"weight_map": {"a": "model-00001.safetensors", "b": "model-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(shards))
    with pytest.raises(WeightsOutOfReach):
        require_weights(MODEL)
    (folder / "model-00002.safetensors").write_text("{}")
    require_weights(MODEL)
    assert constants.HF_HUB_OFFLINE


def test_an_offline_machine_is_told_that_it_is_offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsOutOfReach, match="HF_HUB_OFFLINE forbids"):
        require_weights(MODEL)


def test_a_download_is_logged_with_bytes_and_percent(hub: str, an_empty_cache: Path, monkeypatch):
    monkeypatch.setattr("wire.process.loading_progress._EVERY_S", 0.05)
    with capture_logs() as lines:
        fetch_weights(MODEL)
    begins, *between, ends = lines
    assert (begins["event"], begins["size"], ends["event"]) == ("download_begins", "40 MB", "download_ended")
    assert any(0 < line["percent"] < 100 for line in between)
    assert all(line["said"].startswith("downloaded ") and "of 40 MB" in line["said"] for line in between)
    fetch_weights(MODEL)
    assert list(an_empty_cache.glob("models--someone--some-model/snapshots/*/model.safetensors"))
