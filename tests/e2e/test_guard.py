"""Planted reward hacks on a real box: the guard sees them, and takes the model back. `bench.guard` has more seeds."""

from __future__ import annotations

import httpx
import pytest

from bench.guard import Run, run, teach_to_chat
from tests.e2e.box import Box
from tests.e2e.rollouts import chat

pytestmark = pytest.mark.slow


def assert_taken_back(box: Box, hacked: Run) -> None:
    """Flagged at the second evaluation; head, sampling and training say so."""
    assert hacked.flagged_at == 2, hacked
    assert hacked.head_step == hacked.best_step == 0
    (alarm,) = hacked.alarms
    assert alarm["rule"] == "held_out"
    assert "held-out sums fell over 2 evaluations in a row" in alarm["message"]
    assert "the head was set to it" in alarm["outcome"]["rollback"]
    head = box.call("GET", f"/v2/models/{hacked.model_id}/head")["checkpoint_id"]
    name = box.call("GET", f"/v2/models/{hacked.model_id}")["model_name"]
    assert (chat(box, name)["checkpoint"] or {}).get("id") == head
    step = f"{box.url}/v1/models/{hacked.model_id}/train/optim-step"
    refused = httpx.post(step, json={"learning_rate": 1e-3}, headers=box.headers, trust_env=False)
    assert (refused.status_code, refused.json()["code"]) == (409, "paused")
    assert alarm["message"][:200] in refused.json()["detail"]


def test_a_reward_gamed_by_format_is_flagged_and_rolled_back(box: Box):
    assert_taken_back(box, run(box, "format", 0, None))


def test_a_reward_gamed_by_length_is_flagged_and_rolled_back(box: Box):
    hacked = run(box, "length", 0, teach_to_chat(box))
    assert hacked.lengths[-1] > 2 * hacked.lengths[0]
    assert_taken_back(box, hacked)
