"""The SDK's own command, unmodified, against the server."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.contract.test_checkpoint_names import Run
from tests.contract.test_downloads import FILES, run

__all__ = ["run"]

# Starting Python and importing the SDK takes seconds: all commands in one process.
_PROGRAM = """
import json, sys
from click.testing import CliRunner
from tinker.cli.__main__ import main_cli

done = [CliRunner().invoke(main_cli, command) for command in json.load(sys.stdin)]
json.dump([(one.exit_code, one.stdout, repr(one.exception)) for one in done], sys.stdout)
"""


async def tinker(origin: str, key: str, *commands: str) -> list[Any]:
    """What the commands print, as JSON where they print any."""
    environment = {**os.environ, "TINKER_BASE_URL": origin, "TINKER_API_KEY": f"tml-{key}", "TINKER_TELEMETRY": "0"}
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _PROGRAM, env=environment, **pipes)
    sent = json.dumps([["--format", "json", *command.split()] for command in commands])
    answered, _ = await process.communicate(sent.encode())
    printed = list[Any]()
    for command, (code, text, error) in zip(commands, json.loads(answered), strict=True):
        assert code == 0, (command, text, error)
        printed.append(json.loads(text) if text.startswith(("{", "[")) else text)
    return printed


def _fetched(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.rglob("adapter_*")}


async def test_its_commands_list_show_change_fetch_and_delete(run: Run, origin: str, tmp_path: Path):
    await run.save("first")
    path, exported = f"tinker://{run.id}/weights/first", f"tinker://{run.id}/external_weights/final"
    runs, shown, listed, of_run, info, of_model, *_, changed, fetched, _, left, models = await tinker(
        origin,
        run.team.key,
        "run list",
        f"run info {run.id}",
        "checkpoint list",
        f"checkpoint list --run-id {run.id}",
        f"checkpoint info {path}",
        f"checkpoint info tinker://{run.model_id}/weights/first",
        f"checkpoint publish {path}",
        f"checkpoint set-ttl {path} --ttl 7200",
        f"checkpoint info {path}",
        f"checkpoint download {exported} --output {tmp_path}",
        f"checkpoint delete --yes {path}",
        f"checkpoint list --run-id {run.id}",
        "model list",
    )
    assert [one["training_run_id"] for one in runs["runs"]] == [run.id]
    assert (shown["base_model"], shown["lora_rank"]) == ("org/Tiny-Base", 4)
    paths = [one["tinker_path"] for one in listed["checkpoints"]]
    assert paths == [one["tinker_path"] for one in of_run["checkpoints"]] == [path, exported]
    assert (info["public"], info["expires_at"]) == (False, None)
    assert (changed["public"], changed["expires_at"] is not None) == (True, True)
    assert of_model == {**info, "tinker_path": f"tinker://{run.model_id}/weights/first"}
    assert fetched
    assert _fetched(tmp_path) == FILES
    assert [one["tinker_path"] for one in left["checkpoints"]] == [exported]
    assert "org/Tiny-Base" in json.dumps(models)
