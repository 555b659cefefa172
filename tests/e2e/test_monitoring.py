"""A whole box as those see it who watch it: its logs, its traces, its trainer's metrics."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.box import Box
from tests.unit.server.test_metrics import OF_THE_ENGINE
from tests.unit.wire.otlp_receiver import Receiver, receiving


def train(box: Box, name: str) -> None:
    """A chat and a step, each with a request id of ours."""
    model = box.fork(name)
    headers = {**box.headers, "X-Request-Id": f"{name}-request", "Trace-Id": "ab" * 16}
    with httpx.Client(base_url=box.url, headers=headers, timeout=120, trust_env=False) as http:
        chat = {"model": model, "messages": [{"role": "user", "content": "1+1="}], "max_tokens": 4}
        answer = http.post("/chat/completions", json=chat)
        assert answer.headers["X-Request-Id"] == f"{name}-request"
        sample = {"prompt_token_ids": [5, 6], "output_token_ids": [7, 9], "output_logprobs": [-0.2, -1.1]}
        batch = {"inputs": [{"samples": [sample], "reward": reward} for reward in (0.0, 1.0)]}
        for call, body in (("forward-backward", batch), ("optim-step", {"learning_rate": 1e-4})):
            reply = http.post(f"/v1/models/{model}/train/{call}", json=body)
            assert reply.status_code == 200, reply.text


def lines(box: Box, plane: str) -> list[dict[str, Any]]:
    text = "".join(path.read_text() for path in (box.data_dir / "logs").glob(f"{plane}*.log"))
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def operations_of(lines: Iterable[dict[str, Any]]) -> dict[str, str]:
    """With their models."""
    return {line["operation"]: line["model_id"] for line in lines if "operation" in line}


def test_a_request_leads_to_its_operation_in_the_trainers_log(box: Box):
    train(box, "logged")
    until = time.monotonic() + 20  # both planes answer before they log
    while True:
        mine = [line for line in lines(box, "server") if line.get("request_id") == "logged-request"]
        asked = operations_of(mine)
        done = operations_of(line for line in lines(box, "trainer") if line["event"] == "operation_done")
        if (len(asked) == 2 and asked.items() <= done.items()) or time.monotonic() > until:
            break
        time.sleep(0.05)
    assert {line["trace"] for line in mine} == {"ab" * 16}
    assert len(asked) == 2
    assert asked.items() <= done.items()


def test_no_log_holds_a_key_or_a_token(box: Box):
    train(box, "secrets")
    httpx.get(f"{box.url}/v2/models/{box.env['HUD_API_KEY']}", headers=box.headers, trust_env=False)
    logs = "".join(path.read_text() for path in (box.data_dir / "logs").glob("*.log"))
    assert "secrets-request" in logs
    assert box.env["HUD_API_KEY"] not in logs
    tokens = {environment.get("HEADWAY_SAMPLER_TOKEN", "") for environment in box.environments()} - {""}
    assert tokens
    assert not [token for token in tokens if token in logs]


@pytest.mark.slow
def test_traces_and_a_trainers_metrics(tiny_base: Path, own_box: Box, monkeypatch: pytest.MonkeyPatch):
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        monkeypatch.setenv("HEADWAY_METRICS_PORT", "0")
        own_box.start()
        train(own_box, "traced")
        _wait_for(receiver, "commit", "generate", "load adapter", "POST /v1/models/{model_id}/train/optim-step")
        (url,) = [line["url"] for line in lines(own_box, "trainer") if line["event"] == "metrics"]
        page = httpx.get(url, trust_env=False).text
    names = {family.name for family in text_string_to_metric_families(page)}
    assert names >= OF_THE_ENGINE
    assert "headway_trainer_steps_total 1.0" in page
    (sampled,) = receiver.named("generate")
    (chat,) = receiver.named("POST /chat/completions")
    assert (sampled.service, chat.service) == ("headway-sampler", "headway-server")
    assert sampled.trace_id == chat.trace_id
    (wait,) = receiver.named("wait for optim_step")
    operation = wait.attributes["headway.operation"].replace("-", "")
    assert wait.linked_traces == (operation,)
    phases = {span.name for span in receiver.spans if span.trace_id == operation}
    assert phases >= {"operation", "adamw", "save", "publish", "settle", "promote", "commit"}
    (logged,) = [line for line in lines(own_box, "trainer") if line["event"] == "step_done"]
    assert logged["otel_trace"] == operation == re.sub("-", "", logged["operation"])


def _wait_for(receiver: Receiver, *names: str) -> None:
    deadline = time.monotonic() + 60
    while missing := [name for name in names if not receiver.named(name)]:
        assert time.monotonic() < deadline, f"{missing} never came: {sorted({span.name for span in receiver.spans})}"
        time.sleep(0.1)
