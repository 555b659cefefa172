"""Images, with a program in place of podman that runs on this machine what an image would hold: no engine runs where
these tests do."""

from __future__ import annotations

import asyncio
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from runner.environments import containers
from runner.environments.base import BuildFailed, StartFailed
from tests.unit.runner.environments.played import Played, ask
from wire.placements import EnvironmentSpec

ENGINE = """#!PYTHON
import json, os, signal, socketserver, sys
command, arguments = sys.argv[1], sys.argv[2:]
pids = FOLDER + "/"
name = next((each.removeprefix("--name=") for each in arguments if each.startswith("--name=")), "")

class Control(socketserver.StreamRequestHandler):
    def handle(self):
        results = {"hello": {"env": {"name": "boxed"}, "bindings": [{"name": "mcp", "params": {"key": 1}}]},
                   "tasks.list": {"tasks": [{"id": "reply"}]}, "bye": {}}
        for line in self.rfile:
            asked = json.loads(line)
            answer = {"id": asked["id"], "result": results.get(asked["method"], asked)}
            self.wfile.write(json.dumps(answer).encode() + b"\\n")

if command == "info":
    sys.exit(STATUS)
if command == "pull":
    print("pulling", arguments[-1])
    sys.exit("no such image" if "missing" in arguments[-1] else 0)
if command == "exec":
    assert arguments[0] == "-i" and arguments[1].startswith("headway-")
    os.execv(sys.executable, [sys.executable, *arguments[3:]])
if command == "rm":
    try:
        os.kill(int(open(pids + arguments[-1]).read()), signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        pass
if command == "run":
    assert {"--network=none", "--cap-drop=ALL", "--env=A=1"} <= set(arguments), arguments
    if "broken" in arguments[-1]:
        sys.exit("it does not work")
    open(pids + name, "w").write(str(os.getpid()))
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Control)
    print("HUD_SERVE_PORT=" + str(server.server_address[1]), flush=True)
    server.serve_forever()
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, status: int = 0) -> None:
    script = (
        ENGINE.replace("PYTHON", sys.executable).replace("FOLDER", repr(str(folder))).replace("STATUS", str(status))
    )
    (folder / "podman").write_text(script)
    (folder / "podman").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def image(name: str) -> EnvironmentSpec:
    fields: dict[str, Any] = {"build_id": uuid.uuid4(), "name": "boxed", "declared_name": "boxed", "version": 1}
    return EnvironmentSpec(**fields, source="image", image=name, variables={"A": "1"})


async def test_an_image_is_pulled_served_and_removed(
    played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch)
    lines: list[str] = []
    manifest = await played.environments.build(image("example/env:1"), None, lines.append, 30)
    assert [task["id"] for task in manifest["tasks"]] == ["reply"]
    assert manifest["capabilities"] == [{"name": "mcp", "protocol": None}]
    assert lines[0] == "pulling example/env:1"

    session = await played.environments.start(image("example/env:1"), None, "ab", "reds", lines.append)
    answers = await asyncio.gather(*(ask(session, "echo", big="x" * 300_000) for _ in range(3)))
    assert all(answer["result"]["params"]["big"] == "x" * 300_000 for answer in answers)
    await session.stop()
    with pytest.raises(OSError, match=r"ended|said"):
        await session.connect()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("example/missing", "cannot be pulled: no such image"), ("example/broken", "it does not work")],
)
async def test_an_image_that_fails_says_why(
    name: str, sentence: str, played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch)
    with pytest.raises(BuildFailed, match=sentence):
        await played.environments.build(image(name), None, played.lines.append, 30)


async def test_without_an_engine_images_are_refused(
    played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, status=1)
    with pytest.raises(BuildFailed, match="need podman or docker.*neither answers"):
        await containers.find_engine()
    with pytest.raises(StartFailed, match="need podman or docker"):
        await played.environments.start(image("example/env"), None, "ab", "reds", played.lines.append)
