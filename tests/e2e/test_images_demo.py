"""Pictures of digits, in plain chats and as screenshots of the real SDK's agent: the reward climbs by training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import database_folder
from tests.e2e.box import Box

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TINY_EYES = Path(__file__).parents[2] / ".headway-cache" / "tiny-eyes"


@pytest.fixture(scope="module")
def seeing_box(tiny_base: Path) -> Iterator[Box]:
    assert (TINY_EYES / "config.json").exists(), "run `make test-slow`, which builds the base that reads pictures first"
    with database_folder() as folder:
        box = Box(folder / "data", tiny_base, "--base", f"tiny-eyes={TINY_EYES}", "--seed", "0").start()
        yield box
        assert box.stop() == 0


def climb(box: Box, out: Path, *arguments: str) -> None:
    environment = {**os.environ, **box.env, "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-m", "examples.images_demo", f"--out={out}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    figures = json.loads((out / "demo.json").read_text())
    assert figures["steps"][0]["reward"] < 0.4
    assert figures["reward_smoothed"][-1] > 0.85
    assert figures["held_out"][-1]["reward"] > figures["held_out"][0]["reward"] + 0.5
    assert all(abs(step["kl"]) < 1e-5 for step in figures["steps"])


@pytest.mark.parametrize("seed", [0, 1])
def test_the_reward_for_reading_pictures_climbs(seeing_box: Box, tmp_path: Path, seed: int):
    climb(seeing_box, tmp_path, f"--seed={seed}")


def test_the_sdk_s_agent_learns_from_its_screenshots_and_a_page_shows_them(seeing_box: Box, tmp_path: Path):
    climb(seeing_box, tmp_path, "--agent")
    (job,) = (job for job in seeing_box.call("GET", "/v2/jobs")["items"] if job["name"].startswith("read with"))
    trace = uuid.UUID(seeing_box.call("GET", f"/v2/jobs/{job['id']}/traces?limit=1")["items"][0]["id"])
    events = seeing_box.call("GET", f"/v2/trace/{trace}/events")["events"]
    assert any(event["kind"] == "tool_call" and event["tool_name"] == "look" for event in events), events
    first, second = seeing_box.call("GET", f"/v2/traces/{trace}")["turns"]
    assert first["prompt_media"] == []
    (seen,) = second["prompt_media"]
    assert (seen["num_tokens"], seen["width"], seen["height"]) == (4, 32, 32)
    headers = {"Authorization": f"Bearer {seeing_box.env['HUD_API_KEY']}"}
    with httpx.Client(base_url=seeing_box.url, headers=headers, trust_env=False) as http:
        picture = http.get(f"/v2/traces/{trace}/pictures/{seen['name']}").raise_for_status()
    assert picture.headers["content-type"] == "image/png"
