"""When a run ends before its last step."""

from __future__ import annotations

import pytest

from server.runs.loop.stopping import Standing, drops_in_a_row, reason_to_stop
from server.runs.settings import StopRules


@pytest.mark.parametrize(
    ("scores", "min_delta", "drops"),
    [
        ([], 0.0, 0),
        ([0.5], 0.0, 0),
        ([0.5, 0.4], 0.0, 1),
        ([0.5, 0.4, 0.3], 0.0, 2),
        ([0.5, 0.4, 0.4], 0.0, 0),
        ([0.5, 0.4, 0.45, 0.4], 0.0, 1),
        ([0.5, 0.45, 0.30], 0.1, 1),
    ],
)
def test_drops_in_a_row(scores, min_delta, drops):
    assert drops_in_a_row(scores, min_delta) == drops


def reason(rules: StopRules, **changes) -> str | None:
    return reason_to_stop(rules, Standing(**{"reward": 0.5, "scores": (), "num_tokens": 0, "seconds": 0.0, **changes}))


def test_reasons_to_stop():
    assert reason(StopRules()) is None
    assert reason(StopRules(), scores=(0.6, 0.5, 0.4)) == (
        "held_out: the score fell 2 times in a row (0.6000 → 0.5000 → 0.4000)"
    )
    assert reason(StopRules(held_out_drops=3), scores=(0.6, 0.5, 0.4)) is None
    assert reason(StopRules(reward_at_least=0.5)) == "reward: 0.5000 reached 0.5"
    assert reason(StopRules(reward_at_least=0.5), reward=None) is None
    assert "1000 tokens" in (reason(StopRules(max_tokens=1000), num_tokens=1000) or "")
    assert "60 were allowed" in (reason(StopRules(max_seconds=60), seconds=61) or "")
