"""Sampling through the unmodified SDK."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.box import Box
from tests.tinker.sdks import run_with_sdk

PROGRAM = Path(__file__).with_name("sampling.py")
LOOP = Path(__file__).with_name("sampling_loop.py")


NEW = ("sample_join", "targets")
"""What releases since 0.33 have besides."""
CASES = [
    pytest.param("0.22.7", (), marks=pytest.mark.slow),
    pytest.param("0.25.0", (), marks=pytest.mark.slow),
    ("0.38.0", NEW),
]


@pytest.mark.parametrize(("version", "options"), CASES)
def test_what_is_sampled_is_what_was_asked_for(box: Box, tmp_path: Path, version: str, options: Sequence[str]):
    saw: dict[str, Any] = run_with_sdk(box, version, PROGRAM, tmp_path, "64", *options)
    assert saw.pop("version") == version
    assert saw.pop("differ") > 1
    assert saw.pop("error") < 1e-4, "what compute_logprobs says of an answer is what it was sampled with"
    empty, unknown, long, cold = saw.pop("failures")
    assert all(failure.startswith("user: ") for failure in (empty, unknown, long, cold))
    assert "empty" in empty
    assert "vocabulary" in unknown
    assert "context" in long
    assert "temperature" in cold
    expected: dict[str, Any] = {
        "lengths": [8, 8, 8],
        "aligned": True,
        "reproduced": True,
        "stop_id": True,
        "stop_string": True,
        "reasons": ["length", "stop"],
        "greedy": True,
        "first": None,
        "length": True,
        "top_first": None,
        "top": True,
        "top_agrees": True,
        "many": 64,
    }
    if options:
        expected |= {
            "copies": 2,
            "targets": [True, 0.0, True],
            "shape": [5, 2],
            "top_sample": 3,
            "last_n": [True] * 4 + [False] * 2,
        }
    assert saw == expected


@pytest.mark.slow
def test_every_answer_comes_though_server_and_sampler_are_killed(own_box: Box, tmp_path: Path):
    box = own_box.start()
    undisturbed = run_with_sdk(box, "0.38.0", LOOP, tmp_path, "12")
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(run_with_sdk, box, "0.38.0", LOOP, tmp_path, "60", timeout_s=400)
        deaths = ["server", "sampler", "server"]
        while deaths and not running.done():
            time.sleep(6)
            box.kill(deaths.pop())
        disturbed = running.result()
    assert not deaths, "the loop was over before all of them"
    assert len(disturbed) == 60 * 16
    assert disturbed[: len(undisturbed)] == undisturbed
