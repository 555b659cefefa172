"""Spans of any shape are kept, and come back as they were sent."""

from __future__ import annotations

import json
import math
import uuid

import numpy as np
import pytest

from store.rollouts import read_span
from store.rollouts.arrays import pack, unpack
from store.rollouts.payloads import unpack_payload
from tests.unit.store.rollouts.conftest import agent_span, make_turns, span

TRACE = uuid.uuid4()
(TURN,) = make_turns(1, length=50)


def altered(change) -> dict:
    one = agent_span(TRACE, 1, TURN)
    change(one["attributes"]["hud.payload"])
    return one


def choice(payload: dict) -> dict:
    return payload["raw"]["choices"][0]


def zeros(said: float) -> dict:
    """The sample's logprobs are zeros, and what was raw says so in another way."""
    one = altered(lambda payload: payload["sample"].update(output_logprobs=[0.0] * 50))
    for entry in choice(one["attributes"]["hud.payload"])["logprobs"]["content"]:
        entry["logprob"] = said
    return one


@pytest.mark.parametrize(
    "sent",
    [
        agent_span(TRACE, 1, TURN),
        altered(lambda payload: choice(payload)["token_ids"].append(1)),
        altered(lambda payload: choice(payload)["logprobs"]["content"][0].update(logprob=-0.1)),
        altered(lambda payload: choice(payload)["logprobs"]["content"][0].update(top_logprobs=[{"token": "x"}])),
        altered(lambda payload: choice(payload)["logprobs"]["content"][0].update(bytes=None)),
        altered(lambda payload: choice(payload)["logprobs"]["content"].append(None)),
        altered(lambda payload: choice(payload).update(token_ids=[float(n) for n in TURN.output_ids])),
        altered(lambda payload: payload["raw"].update(prompt_token_ids=[True] * 50)),
        altered(lambda payload: choice(payload)["logprobs"]["content"][0]["bytes"].__setitem__(0, 116.0)),
        altered(lambda payload: choice(payload)["logprobs"]["content"][0].update(more=1)),
        altered(lambda payload: choice(payload)["logprobs"]["content"][0].update(token=7)),
        altered(lambda payload: choice(payload)["logprobs"]["content"][0].update(top_logprobs=None)),
        altered(lambda payload: payload["raw"].update(prompt_token_ids={"hw:same-as-sample": "prompt"})),
        altered(lambda payload: payload["raw"].update(choices=[])),
        altered(lambda payload: payload["sample"].update(output_logprobs=[-0.1] * 50)),
        altered(lambda payload: payload["sample"].update(output_logprobs=[0.0] * 50)),
        zeros(-0.0),
        zeros(0),
        zeros(False),
        altered(lambda payload: payload["sample"].update(output_logprobs=[-0.0] * 50)),
        altered(lambda payload: payload["sample"].update(output_logprobs=[])),
        altered(lambda payload: payload.update(raw=None)),
        altered(lambda payload: payload.update(raw=[1])),
    ],
)
def test_a_span_comes_back_as_it_was_sent(sent: dict):
    found = read_span(sent, TRACE)
    assert found.turn is not None
    assert found.flag is None
    restored = unpack_payload(found.payload, found.turn)
    assert json.dumps(restored, sort_keys=True) == json.dumps(sent, sort_keys=True)


def test_tokens_that_the_sample_holds_are_not_stored_again():
    (turn,) = make_turns(1, length=5000)
    found = read_span(agent_span(TRACE, 1, turn), TRACE)
    assert found.num_bytes > 500_000
    assert len(found.payload) < 20_000, "the tokens' texts, no more"


@pytest.mark.parametrize(
    ("sent", "flag"),
    [
        (None, "not_an_object"),
        ("x" * 100_000, "not_an_object"),
        ([1, 2], "not_an_object"),
        ({}, "no_span_id"),
        (span(TRACE, {}, span_id=17), "no_span_id"),
        (span(TRACE, {}, span_id="a\x00"), "no_span_id"),
        (span(TRACE, {}, span_id="x" * 1000), "no_span_id"),
        (span(uuid.uuid4(), {"step_id": 1, "source": "tool"}), "other_trace"),
        (span(TRACE, None), "malformed_step"),
        (span(TRACE, "text"), "malformed_step"),
        (span(TRACE, {"step_id": "1", "source": "agent"}), "malformed_step"),
        (span(TRACE, {"step_id": True, "source": "agent"}), "malformed_step"),
        (span(TRACE, {"step_id": 2**40, "source": "agent"}), "malformed_step"),
        (span(TRACE, {"step_id": 1, "source": 7}), "malformed_step"),
        (altered(lambda payload: payload.update(sample=3)), "malformed_sample"),
        (altered(lambda payload: payload["sample"].update(prompt_token_ids="12")), "malformed_sample"),
        (altered(lambda payload: payload["sample"].update(prompt_token_ids=[1.5])), "malformed_sample"),
        (altered(lambda payload: payload["sample"].update(output_token_ids=[2**31])), "malformed_sample"),
        (altered(lambda payload: payload["sample"].update(output_token_ids=[-1])), "malformed_sample"),
        (altered(lambda payload: payload["sample"].update(output_token_ids=[True] * 50)), "malformed_sample"),
        (altered(lambda payload: payload["sample"].update(output_logprobs=[float("nan")] * 50)), "malformed_sample"),
        (altered(lambda payload: payload["sample"].update(output_logprobs=[10**400] * 50)), "malformed_sample"),
        (
            altered(lambda payload: payload["sample"]["output_logprobs"].__setitem__(7, math.nan)),
            "malformed_sample",
        ),
        (altered(lambda payload: payload["sample"]["output_logprobs"].__setitem__(7, 1e39)), "malformed_sample"),
        (altered(lambda payload: payload["sample"]["output_logprobs"].__setitem__(7, True)), "malformed_sample"),
        (altered(lambda payload: payload["sample"].update(output_logprobs=[-1.0])), "malformed_sample"),
        (altered(lambda payload: payload["sample"].update(prompt_chunks=[{}])), "malformed_sample"),
    ],
)
def test_an_odd_span_is_kept_with_a_flag_and_does_not_count(sent, flag: str):
    found = read_span(sent, TRACE)
    assert found.flag == flag
    assert found.turn is None
    assert json.dumps(unpack_payload(found.payload, None)) == json.dumps(sent)


@pytest.mark.parametrize(
    "sent",
    [
        span(TRACE, {"anything": 1}, attributes={"hud.schema": "hud.filetracking.v1"}),
        span(TRACE, {"anything": 1}, attributes=None, start_time="never", end_time=5, name="\ud800"),
        span(TRACE, {"step_id": 1, "source": "agent", "sample": None}),
        altered(lambda payload: payload["sample"].update(output_token_ids=[], output_logprobs=[])),
        span(TRACE, {"step_id": 1, "source": "task", "task_call": {"phase": "evaluate", "result": {"score": "x"}}}),
    ],
)
def test_spans_of_other_schemas_and_steps_without_tokens_are_nothing_odd(sent: dict):
    found = read_span(sent, TRACE)
    assert (found.flag, found.turn, found.evaluated_reward) == (None, None, None)


@pytest.mark.parametrize("lengths", [(0, 0, 0), (3, 0, 0), (0, 3, 3), (5, 4, 0), (1000, 1000, 1000)])
def test_arrays_keep_every_bit(lengths: tuple[int, int, int]):
    random = np.random.default_rng(0)
    tail, output = (random.integers(-(2**31), 2**31, n).astype(np.int32) for n in lengths[:2])
    logprobs = random.integers(0, 2**32, lengths[2], np.uint32).view(np.float32)  # NaNs among them
    found = unpack(pack(tail, output, logprobs))
    assert [a.tobytes() for a in found] == [tail.tobytes(), output.tobytes(), logprobs.tobytes()]


def test_bytes_of_another_version_are_refused():
    with pytest.raises(ValueError, match="unknown version 9"):
        unpack(b"\x09" + bytes(12))
