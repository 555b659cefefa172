"""What this release writes, the release before reads: its planes may run beside this one's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from store.rollouts.arrays import pack
from tests.upgrades import reading_formats
from tests.upgrades.last_release import check_out
from wire.datum_payload import encode_datums
from wire.datums import Datum, Origin
from wire.extension import Media, TokenSequence
from wire.loaded import Loaded
from wire.plans import FUSED_LORA, ONEDNN_PRODUCTS, PlanSettings, StepPlan, encode_plan, encode_step_plan, plan_of


def test_the_release_before_reads_what_this_one_writes(tmp_path: Path):
    tree = check_out(tmp_path)
    plan = plan_of([[[0, 2]], [[1]]], PlanSettings(512, 1), "eager", FUSED_LORA, products=ONEDNN_PRODUCTS)
    loaded = Loaded(version="0.2.0", schema="0099", stores={"checkpoints": "0"}).to_json()
    written = {
        "plan": encode_plan(plan).hex(),
        "step": encode_step_plan(StepPlan(1, 0.5)).hex(),
        "datums": encode_datums([_datum()], {"loss": "ppo"}).hex(),
        "arrays": pack(np.array([1], np.int32), np.array([2, 3], np.int32), np.zeros(2, np.float32)).hex(),
        "loaded": loaded,
    }
    done = subprocess.run(
        [sys.executable, str(Path(reading_formats.__file__))],
        input=json.dumps(written),
        env={**os.environ, "PYTHONPATH": str(tree)},
        cwd=tree,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == {
        "plan": ["eager", FUSED_LORA, ONEDNN_PRODUCTS, [[0, 2], [1]]],
        "step": 0.5,
        "datums": [[1, 2, 3]],
        "arguments": {"loss": "ppo"},
        "arrays": [[1], [2, 3]],
        "loaded": "0.2.0",
    }


def _datum() -> Datum:
    """With all that a payload may hold."""
    return Datum(
        model_input=TokenSequence(np.array([1, 2, 3], np.int32), (Media(0, 1, bytes(32), 640, 480),)),
        spans=np.array([[1, 3]], np.int32),
        is_sampled=np.array([True]),
        targets=np.array([[3, 4], [5, 6]], np.int32),
        weights=np.ones((2, 2), np.float32),
        advantages=np.ones(2),
        sampling_logprobs=np.zeros(2, np.float32),
        origin=Origin(0, 0, 1.0, "a"),
        in_ratio=np.array([True, False]),
    )
