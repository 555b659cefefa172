"""Graders that ask a model, through the gateway: the environment has no key, its runner relays the call with one.

The answer is JSON by a schema, which the gateway holds the model to.
"""

from __future__ import annotations

import json
import os
from typing import Any

import httpx

from runner.environments.builtin.failures import GradingFailed
from wire.graders.shapes import LabelModel, SamplingParams, ScoreModel

_TIMEOUT_S = 300.0
_MOST_TOKENS = 4096
_MOST_SHOWN = 300

Verdict = tuple[float, dict[str, Any]]


async def score(grader: ScoreModel, messages: list[dict[str, str]]) -> Verdict:
    """The number that the model gives. Raises GradingFailed."""
    least, most = grader.range or (0.0, 1.0)
    said = await _ask(grader, messages, {"type": "number", "minimum": least, "maximum": most})
    if isinstance(said, bool) or not isinstance(said, int | float) or not least <= said <= most:
        raise GradingFailed(f"the model {grader.model!r} gave no score from {least:g} to {most:g}: {_shown(said)}")
    return float(said), {"result": said}


async def label(grader: LabelModel, messages: list[dict[str, str]]) -> Verdict:
    """Whether the label that the model chooses passes. Raises GradingFailed."""
    said = await _ask(grader, messages, {"type": "string", "enum": grader.labels})
    if said not in grader.labels:
        raise GradingFailed(f"the model {grader.model!r} chose none of the labels: {_shown(said)}")
    return float(said in grader.passing_labels), {"result": said}


async def _ask(grader: ScoreModel | LabelModel, messages: list[dict[str, str]], schema: dict[str, Any]) -> Any:
    wanted = {"type": "object", "properties": {"result": schema}, "required": ["result"], "additionalProperties": False}
    body = {
        "model": grader.model,
        "messages": messages,
        "response_format": {"type": "json_schema", "json_schema": {"name": "grade", "strict": True, "schema": wanted}},
        **_sampling(grader.sampling_params or SamplingParams()),
    }
    reply = await _post("/chat/completions", body)
    try:
        return json.loads(reply["choices"][0]["message"]["content"])["result"]
    except (LookupError, TypeError, ValueError):
        raise GradingFailed(f"the model {grader.model!r} answered without a result: {_shown(reply)}") from None


def _sampling(asked: SamplingParams) -> dict[str, Any]:
    sampling = asked.model_dump(exclude_none=True, exclude={"max_completions_tokens"})
    return {**sampling, "max_completion_tokens": asked.max_completions_tokens or _MOST_TOKENS}


async def _post(path: str, body: dict[str, Any]) -> dict[str, Any]:
    gateway = os.environ.get("HUD_GATEWAY_URL")
    if not gateway:
        raise GradingFailed("the runner gives this environment no gateway, so no model can grade")
    try:
        async with httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False) as client:
            reply = await client.post(gateway.rstrip("/") + path, json=body)
        said = reply.json()
    except (httpx.HTTPError, ValueError) as error:
        raise GradingFailed(f"the grading model could not be asked: {type(error).__name__}") from None
    if reply.status_code != 200:
        detail = said.get("detail") or said.get("error") if isinstance(said, dict) else said
        raise GradingFailed(f"the grading model was not sampled ({reply.status_code}): {_shown(detail)}")
    return said


def _shown(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value))[:_MOST_SHOWN]
