"""The benchmark of screenshots runs, and what it says of its batches is so."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bench import screen_turns
from bench.images import SHAPES, run
from bench.screen_base import ScreenBase
from bench.screen_rows import num_tokens
from bench.screens import Screens, screen_batch

SMALL = Screens(group_size=2, num_turns=2, width=64, height=64, prompt=6, output=4)

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_small_run_finds_all_gradients_equal_and_ends_with_json(capsys: pytest.CaptureFixture[str]) -> None:
    shapes = {name: replace(SMALL, shares_frames=shape.shares_frames) for name, shape in SHAPES.items()}
    assert run(ScreenBase(hidden=64, layers=2), shapes, rounds=1) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["shapes"].keys() == SHAPES.keys()
    for found in figures["shapes"].values():
        assert found["gradient_error"] < 1e-4
        assert found["tokens"]["ours"] < found["tokens"]["naive"]
        assert found["peak_bytes"]["ours"] < found["peak_bytes"]["naive"]
    assert {bar["name"] for bar in figures["bars"]} == {
        "shared frames: times faster than naive",
        "shared frames: times less memory",
    }


@pytest.mark.parametrize(("name", "num_pictures"), [("shared frames", 6), ("own frames", 1 + 8 * 5)])
def test_batches_are_those_that_the_bars_were_set_on(name: str, num_pictures: int) -> None:
    shape = SHAPES[name]
    assert shape.num_placeholders == 1000
    assert shape.halved.num_placeholders == 240
    batch = screen_batch(replace(shape, width=32, height=32), seed=0)
    assert len(batch.pictures) == num_pictures
    assert batch.num_shown == 8 * (1 + 2 + 3 + 4 + 5 + 6)


def test_a_row_a_turn_computes_all_of_each_history() -> None:
    batch = screen_batch(SMALL, seed=0)
    first = 6 + 16 + 1 + 4
    assert num_tokens(batch) == 2 * (first + first + 2 + 16 + 1 + 4)


def test_first_tokens_of_the_sampler_are_those_of_transformers(capsys: pytest.CaptureFixture[str]) -> None:
    assert screen_turns.run(ScreenBase(hidden=64, layers=2), replace(SMALL, group_size=1), rounds=1) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["logprob_error"] < 1e-5
    assert figures["seconds"].keys() == {"plain", "ours", "again"}
