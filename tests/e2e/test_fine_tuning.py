"""A whole fine-tuning with OpenAI's client: a file, a job, its events and checkpoints, the model that it made."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.box import Box

CACHE = Path(__file__).parents[2] / ".headway-cache" / "openai"
WITH_A_COMMAND = "1.109.1"
"""The newest line of OpenAI's client that has a command; its requirements are this environment's."""
OVER = ("succeeded", "failed", "cancelled")
SAME = {
    "type": "string_check",
    "name": "same",
    "operation": "eq",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}
PROGRAM = """
def grade(sample, item):
    said, right = sample["output_text"].strip(), item["answer"]
    return sum(a == b for a, b in zip(said, right)) / max(len(said), len(right), 1)
"""
GRADER = {
    "type": "multi",
    "name": "mostly right",
    "graders": {"same": SAME, "digits": {"type": "python", "name": "digits", "source": PROGRAM}},
    "calculate_output": "0.5 * same + 0.5 * digits",
}


@pytest.fixture
def client(box: Box) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{box.url}/v1", api_key=box.env["HUD_API_KEY"], max_retries=0)


def sums(*answers: bool) -> bytes:
    """Lines of sums; `answers`: with the assistant's."""
    lines = []
    for a, b in ((1, 2), (3, 4), (2, 5), (4, 4)):
        messages: list[Any] = [{"role": "user", "content": f"{a}+{b}=?"}]
        if any(answers):
            messages.append({"role": "assistant", "content": str(a + b)})
        lines.append(json.dumps({"messages": messages, "answer": str(a + b)}))
    return "\n".join(lines).encode()


def until_over(client: openai.OpenAI, box: Box, job_id: str, timeout_s: float = 120.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.status in OVER:
            return job
        time.sleep(0.3)
    raise AssertionError(f"{job}\n{box.logs()}")


def openai_command(box: Box, *args: str) -> subprocess.CompletedProcess[str]:
    folder = CACHE / WITH_A_COMMAND
    if not (folder / "openai").exists():
        with tempfile.TemporaryDirectory() as wheels:
            pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", wheels]
            subprocess.run([*pip, f"openai=={WITH_A_COMMAND}"], check=True)
            (wheel,) = Path(wheels).glob("*.whl")
            zipfile.ZipFile(wheel).extractall(folder)
    where = {"OPENAI_BASE_URL": f"{box.url}/v1", "OPENAI_API_KEY": box.env["HUD_API_KEY"], "PYTHONPATH": str(folder)}
    command = [sys.executable, "-W", "ignore", "-m", "openai", "api", *args]
    return subprocess.run(command, env=where, capture_output=True, text=True, timeout=60, check=False)


def test_a_job_reinforces_by_its_grader_and_its_model_and_checkpoints_answer(box: Box, client: openai.OpenAI):
    file = client.files.create(file=("sums.jsonl", sums()), purpose="fine-tune")
    hyperparameters = {"n_epochs": 1, "batch_size": 2, "compute_multiplier": 0.25, "learning_rate_multiplier": 10}
    job = client.fine_tuning.jobs.create(
        model="tiny-arith",
        training_file=file.id,
        suffix="graded",
        seed=1,
        method={"type": "reinforcement", "reinforcement": {"grader": GRADER, "hyperparameters": hyperparameters}},
    )
    client.files.delete(file.id)  # the job has what it needs
    job = until_over(client, box, job.id)
    assert (job.status, job.error) == ("succeeded", None)
    assert job.fine_tuned_model.startswith("ft-tiny-arith-graded-")
    assert job.trained_tokens > 0
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=2))
    assert [event.created_at for event in events] == sorted((e.created_at for e in events), reverse=True)
    steps = [event for event in events if event.type == "metrics"]
    assert len(steps) == 2
    assert 0 <= steps[0].data["reward"] <= 1
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id))
    assert [one.step_number for one in checkpoints] == [2, 1]
    for model in (job.fine_tuned_model, *(one.fine_tuned_model_checkpoint for one in checkpoints)):
        asked = [{"role": "user", "content": "1+2=?"}]
        answer = client.chat.completions.create(model=model, messages=asked, max_tokens=4)
        assert answer.choices[0].message.content is not None


@pytest.mark.slow
def test_openai_s_command_uploads_starts_and_cancels(box: Box, tmp_path: Path):
    (tmp_path / "sums.jsonl").write_bytes(sums(True))
    uploaded = openai_command(box, "files.create", "-f", str(tmp_path / "sums.jsonl"), "-p", "fine-tune")
    assert uploaded.returncode == 0, uploaded.stderr
    file_id = json.loads(uploaded.stdout)["id"]
    made = openai_command(box, "fine_tuning.jobs.create", "-m", "tiny-arith", "-F", file_id, "-s", "command")
    assert made.returncode == 0, made.stderr
    job = json.loads(made.stdout)
    assert job["method"]["type"] == "supervised"
    events = openai_command(box, "fine_tuning.jobs.list_events", "-i", job["id"])
    assert "examples out of the 4" in events.stdout
    cancelled = openai_command(box, "fine_tuning.jobs.cancel", "-i", job["id"])
    assert cancelled.returncode == 0 or "nothing to cancel" in cancelled.stderr, cancelled.stderr


def test_a_job_imitates_and_its_loss_falls(box: Box, client: openai.OpenAI):
    file = client.files.create(file=("sums.jsonl", sums(True)), purpose="fine-tune")
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 8, "batch_size": 4,
                                                                       "learning_rate_multiplier": 50}}}  # fmt: skip
    job = client.fine_tuning.jobs.create(model="tiny-arith", training_file=file.id, method=method)
    job = until_over(client, box, job.id)
    assert (job.status, job.error) == ("succeeded", None)
    losses = [one.metrics.to_dict()["loss"] for one in client.fine_tuning.jobs.checkpoints.list(job.id)]
    assert len(losses) == 8
    assert losses[0] < losses[-1]
