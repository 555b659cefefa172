"""`hud eval --full` asks `POST /responses` whether the agent is done, a judge that this service does not have: the
agent ends after its answer, and no policy is asked in the judge's place."""

from __future__ import annotations

import json
import time
from pathlib import Path

import openai
import pytest

from tests.e2e.box import Box
from tests.e2e.hud_command import run_hud

ENVIRONMENT = """
from collections.abc import AsyncGenerator
from hud import Environment

env = Environment(name="arithmetic")


@env.template()
async def addition(a: int, b: int) -> AsyncGenerator[str | float, str]:
    answer = yield f"{a}+{b}=?"
    yield float(answer.strip() == str(a + b))


task = addition(a=12, b=30)
task.slug = "twelve-and-thirty"
"""


def test_a_judge_that_is_not_there_is_not_found_and_nobody_answers_for_it(box: Box):
    client = openai.OpenAI(base_url=f"{box.url}/v1", api_key=box.env["HUD_API_KEY"], max_retries=0)
    bare = openai.OpenAI(base_url=box.url, api_key=box.env["HUD_API_KEY"], max_retries=0)
    for gateway in (client, bare):
        with pytest.raises(openai.NotFoundError):
            gateway.responses.create(model="gpt-5", input="Agent message: 42")


def test_a_full_evaluation_ends_after_the_answer_and_records_it_alone(box: Box, tmp_path: Path):
    (tmp_path / "tasks.py").write_text(ENVIRONMENT)
    box.fork("judged")
    done = run_hud("eval", "tasks.py", "judged", "--full", "--yes", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = box.call("GET", "/v2/jobs")["items"]
    [trace] = box.call("GET", f"/v2/jobs/{jobs[0]['id']}/traces")["items"]
    assert trace["status"] == "completed", json.dumps(trace)
    deadline = time.monotonic() + 60
    while not (events := box.call("GET", f"/v2/trace/{trace['id']}/events")["events"]):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert [event["kind"] for event in events if event["kind"] == "agent_message"] == ["agent_message"], events
