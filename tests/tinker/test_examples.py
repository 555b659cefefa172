"""The loops in `examples/tinker`, for a few steps each: one as a user starts it, the others in forks of a process that
has imported the SDK."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from statistics import fmean
from subprocess import CompletedProcess

import httpx
import pytest

from store.unpacking import unpack
from tests.e2e.box import Box
from tests.tinker.program_forks import ProgramForks
from tests.tinker.sdks import RUN

_TIMEOUT_S = 240


def test_the_program_of_the_page_for_those_who_come_from_tinker_runs(
    box: Box, forks: ProgramForks, tiny_base: Path, tmp_path: Path
):
    (program,) = re.findall(r"```python\n(.*?)```", Path("docs/tinker.md").read_text(), re.DOTALL)
    (tmp_path / "tiny-arith").symlink_to(tiny_base)
    (tmp_path / "program.py").write_text(program.replace("Qwen/Qwen3-0.6B", "Qwen/tiny-arith"))
    *losses, answer = _printed(box, _forked(box, forks, ["program.py"], tmp_path)).splitlines()
    assert float(losses[-1]) < float(losses[0]), losses
    assert "/sampler_weights/v1 " in answer


def test_reinforcement_climbs_on_policy(box: Box, forks: ProgramForks, tiny_base: Path):
    shown = _loop(box, forks, "rl_loop", f"--tokenizer={tiny_base}", "--steps=8", "--groups=4", "--name=climbs")
    rewards, kls = _column(shown, "reward"), _column(shown, "kl")
    assert len(rewards) == 8
    assert fmean(rewards[-3:]) > fmean(rewards[:3]) + 0.1, shown
    assert max(map(abs, kls)) < 1e-5, "the trainer computes what the sampler sampled from"
    assert re.search(r"^tinker://\S+/weights/final$", shown, re.MULTILINE)
    assert re.search(r"^tinker://\S+/sampler_weights/final$", shown, re.MULTILINE)

    model = box.call("GET", "/v2/models/resolve?model=climbs")["id"]
    nodes = box.call("GET", f"/v2/models/{model}/checkpoints")
    assert [node["step"] for node in nodes] == list(range(9)), "a model of this team like any other"
    body = {"model": "climbs", "messages": [{"role": "user", "content": "12+34=?"}], "max_tokens": 4}
    assert box.call("POST", "/v1/chat/completions", body)["checkpoint"]["step"] == 8, "the gateway has what was trained"


@pytest.mark.slow
def test_reinforcement_climbs_as_high_as_in_the_demo(box: Box, forks: ProgramForks, tiny_base: Path):
    rewards = _column(_loop(box, forks, "rl_loop", f"--tokenizer={tiny_base}", "--steps=30"), "reward")
    assert fmean(rewards[:3]) < 0.4
    assert fmean(rewards[-5:]) > 0.85


def test_supervision_resumes_where_it_was_broken_off(
    box: Box, forks: ProgramForks, tiny_base: Path, supervised: Path, tmp_path: Path
):
    rows = [json.loads(line) for line in (supervised / "checkpoints.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 6]
    unbroken = _column((supervised / "shown").read_text(), "nll")
    assert unbroken[-1] < unbroken[0] / 2, "it learns"

    (tmp_path / "checkpoints.jsonl").write_text(json.dumps(rows[0]) + "\n")
    resumed = _loop(box, forks, "supervised_loop", f"--tokenizer={tiny_base}", "--steps=6", f"--out={tmp_path}")
    assert _column(resumed, "nll") == unbroken[3:]


def test_preferences_widen_the_margin_with_the_tokenizer_that_the_service_offers(box: Box, tmp_path: Path):
    key = {"X-API-Key": box.env["TINKER_API_KEY"]}
    archive = httpx.get(f"{box.url}/api/v1/tokenizers/tiny-arith", headers=key, trust_env=False)
    with tarfile.open(fileobj=io.BytesIO(archive.content)) as files:
        unpack(files, tmp_path)

    command = ["-c", RUN, "examples.tinker.preference_loop", "--steps=5", "--pairs=8"]
    shown = _printed(box, _started(box, command, HF_HOME=str(tmp_path)))  # which is read when libraries are imported
    margins, losses = _column(shown, "margin"), _column(shown, "loss")
    assert abs(margins[0]) < 1e-3, "at first the policy is the reference"
    assert margins[-1] > 1.0, shown
    assert losses[-1] < losses[0]


def test_a_student_comes_closer_to_its_teacher(box: Box, forks: ProgramForks, tiny_base: Path, supervised: Path):
    teacher = json.loads((supervised / "checkpoints.jsonl").read_text().splitlines()[-1])["sampler_path"]
    options = (f"--tokenizer={tiny_base}", "--steps=6", "--batch-size=16", f"--teacher={teacher}")
    shown = _loop(box, forks, "distillation_loop", *options)
    for column in ("kl(teacher|student)", "kl(student|teacher)"):
        divergences = _column(shown, column)
        assert fmean(divergences[-2:]) < divergences[0] / 2, shown


@pytest.fixture(scope="module")
def supervised(box: Box, forks: ProgramForks, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of six supervised steps without a break."""
    out = tmp_path_factory.mktemp("supervised")
    options = (f"--tokenizer={tiny_base}", "--steps=6", "--save-every=3", f"--out={out}")
    (out / "shown").write_text(_loop(box, forks, "supervised_loop", *options))
    return out


def _loop(box: Box, forks: ProgramForks, name: str, *options: str) -> str:
    return _printed(box, _forked(box, forks, [f"examples.tinker.{name}", *options]))


def _forked(box: Box, forks: ProgramForks, arguments: list[str], cwd: Path | None = None) -> CompletedProcess[str]:
    return forks.run(arguments, box.env, _TIMEOUT_S, cwd=cwd, refuses_warnings=True)


def _started(box: Box, arguments: list[str], **environment: str) -> CompletedProcess[str]:
    """As a user starts it."""
    return subprocess.run(
        [sys.executable, "-W", "error::FutureWarning", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **box.env, "HF_HUB_OFFLINE": "1", **environment},
        timeout=_TIMEOUT_S,
        check=False,
    )


def _printed(box: Box, done: CompletedProcess[str]) -> str:
    """What it printed. A warning fails it: so the SDK announces what it is about to drop, and what does not work."""
    assert done.returncode == 0, f"{done.stderr[-3000:]}\n{box.logs()}"
    assert "WARNING" not in done.stderr, done.stderr
    return done.stdout


def _column(shown: str, name: str) -> list[float]:
    return [float(number) for number in re.findall(rf"  {re.escape(name)} (\S+)", shown)]
