"""Rollouts exported from one box, imported into a second one and trained there, with the commands that users have."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.box import Box
from tests.e2e.rollouts import step

TURNS = 12


def headway(box: Box, *args: str) -> str:
    env = {key: value for key, value in os.environ.items() if not key.startswith("HUD_")}
    command = [sys.executable, "-m", "cli", *args, "--data-dir", str(box.data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, env={**env, "COLUMNS": "200"}, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def play(box: Box, model: str, number: int) -> str:
    """A game of twelve moves through the gateway; a tool answers every one."""
    import httpx

    trace, messages, board = uuid.uuid4().hex, list[dict[str, Any]](), 40 + number
    for move in range(TURNS):
        messages.append({"role": "user", "content": f"{board}-1=?"})
        body = {"model": model, "messages": messages, "max_tokens": 4, "temperature": 1.0, "seed": 100 * number + move}
        headers = {**box.headers, "Trace-Id": trace}
        reply = httpx.post(box.url + "/v1/chat/completions", json=body, headers=headers, timeout=120, trust_env=False)
        assert reply.status_code == 200, reply.text
        messages.append({"role": "assistant", "content": reply.json()["choices"][0]["message"]["content"]})
        board -= 1
    box.call("POST", f"/v2/trace/{trace}/exit", {"status": "completed", "reward": float(number)})
    return trace


def weights(box: Box, model_id: str, checkpoint_id: str) -> str:
    folder = box.data_dir / "checkpoints" / uuid.UUID(model_id).hex / uuid.UUID(checkpoint_id).hex
    return hashlib.sha256((folder / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_game_trains_a_second_box_to_the_same_bits(box: Box, own_box: Box, tmp_path: Path):
    here = box.fork("transfer")
    traces = [play(box, "transfer", number) for number in range(2)]
    lines, table = tmp_path / "games.jsonl.gz", tmp_path / "games.parquet"
    for file in (lines, table):
        told = headway(box, "export", "--out", str(file), "--model", here)
        assert told.startswith("2 of 2 rollouts")
    own_box.start()
    there = own_box.fork("transfer")
    assert headway(own_box, "import", str(lines), "--job", "games").startswith("2 imported")
    assert headway(own_box, "import", str(table)).startswith("0 imported, 2 on record already"), "the same in Parquet"
    made = []
    for where, model in ((box, here), (own_box, there)):
        done = step(where, model, traces, group_size=2)
        (node,) = where.call("GET", f"/v2/models/{model}/checkpoints")
        made.append((weights(where, model, done["checkpoint_id"]), node["metrics"]["grad_norm"]))
    assert made[0] == made[1]
    assert made[0][1] > 0, "or equal weights would mean nothing"
