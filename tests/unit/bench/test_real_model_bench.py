"""The benchmark of a real model runs on a tiny one, and counts what it says it counts."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
import torch

from bench.batches import Shape, TokenCounts
from bench.real_model import measure
from bench.sampling_rate import GENERATE, OURS, PRODUCTS, Lengths
from bench.training_share import Passes

pytestmark = pytest.mark.filterwarnings("ignore")
TINY_BASE = Path(__file__).parents[3] / ".headway-cache" / "tiny-arith"
BATCH = Shape(1, 4, 1, prompt=(8, 13), output=(2, 6))


def test_all_parts_are_measured_and_the_run_ends_with_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    before = torch.get_num_threads()
    status = measure(TINY_BASE, 1, [2, 32], Lengths(prompt=6, answer=3), {"tree": BATCH}, tmp_path / "figures.json")
    assert torch.get_num_threads() == before
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert status == 0
    assert json.loads((tmp_path / "figures.json").read_text())["passes"] == figures["passes"]
    assert {"cores", "processor", "load_before", "load_after", "torch"} <= figures.keys()
    assert figures["loading_s"].keys() == {"reading the file", "transformers", "trainer", "sampler"}
    assert figures["sampling_s"]["32"].keys() >= {OURS, GENERATE, PRODUCTS}
    assert {bar["name"].partition(",")[0] for bar in figures["bars"]} >= {"loading", "training"}
    assert figures["passes"]["tree"]["share_of_peak"] > 0


def test_a_share_is_of_the_median_pass():
    passes = Passes({"headway": [4.0, 1.0, 2.0], "trl": [1.0] * 3}, TokenCounts(1, 1, 1), flops=100.0)
    assert passes.share(200.0) == pytest.approx(100 / statistics.median([4.0, 1.0, 2.0]) / 200)
